from pathlib import Path

import numpy as np
import pytest

from dps_ray.errors import DataError
from pipelines.monitoring.held_out import Accuracy, held_out_accuracy
from pipelines.monitoring.run_log import RunLog, read_metrics, read_samples, read_summary


@pytest.fixture
def log(tmp_path):
    log = RunLog(tmp_path, [])
    yield log
    log.close()


def rewards(folder):
    return [(r["step"], r["critic/rewards/mean"]) for r in read_metrics(folder)]


def write_rewards(log, steps):
    for step in steps:
        log.step(step, {"critic/rewards/mean": step / 8})


def sample(step):
    return {"step": step, "prompt_id": 2**62, "response": "é\n\ud800", "score": 0.5, "state": 1}


def test_steps_read_back_as_they_were_written(log, tmp_path):
    log.step(0, {"val-core/all/acc/mean@1": 0.25})
    log.step(1, {"critic/rewards/mean": 0.5, "perf/total_rollouts": 512})
    first, second = read_metrics(tmp_path)
    assert first.pop("time") <= second.pop("time")
    assert first == {"step": 0, "val-core/all/acc/mean@1": 0.25}
    assert second == {"step": 1, "critic/rewards/mean": 0.5, "perf/total_rollouts": 512}


def test_two_lines_of_a_step_become_one_record(log, tmp_path):
    log.step(10, {"critic/rewards/mean": 0.5})
    log.step(10, {"val-core/all/acc/mean@1": 0.25})
    (record,) = read_metrics(tmp_path)
    assert record["critic/rewards/mean"] == 0.5
    assert record["val-core/all/acc/mean@1"] == 0.25


def test_values_that_are_not_finite_are_left_out(log, tmp_path):
    log.step(1, {"good": 1.0, "nan": float("nan"), "infinite": np.float32("inf")})
    log.summary({"seconds": 1.0, "uniform_effective_ratio": float("nan")})
    (record,) = read_metrics(tmp_path)
    assert set(record) == {"step", "time", "good"}
    assert read_summary(tmp_path) == {"seconds": 1.0}


def test_numpy_scalars_are_written_as_plain_numbers(log, tmp_path):
    log.step(1, {"acc/mean": np.float32(0.25)})
    log.samples([{"step": 1, "prompt_id": np.int64(2**62), "state": np.int8(2)}])
    log.summary({"times_sampled": {"0": np.int64(7)}})
    assert read_metrics(tmp_path)[0]["acc/mean"] == 0.25
    assert read_samples(tmp_path) == [{"step": 1, "prompt_id": 2**62, "state": 2}]
    assert read_summary(tmp_path) == {"times_sampled": {"0": 7}}


def test_samples_keep_every_character(log, tmp_path):
    log.samples([sample(1)])
    assert read_samples(tmp_path) == [sample(1)]


def test_a_torn_last_line_is_dropped_on_reading(log, tmp_path):
    write_rewards(log, [1, 2])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "critic/rew')
    assert rewards(tmp_path) == [(1, 0.125), (2, 0.25)]


def test_a_torn_last_line_does_not_spoil_the_line_after_it(log, tmp_path):
    write_rewards(log, [1])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "critic/rew')
    write_rewards(RunLog(tmp_path, []), [2])
    assert rewards(tmp_path) == [(1, 0.125), (2, 0.25)]


def test_a_broken_line_before_the_last_is_an_error_that_names_it(log, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2,\n{"step": 3}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 2 is not JSON"):
        read_metrics(tmp_path)


def test_resuming_forgets_what_came_after_the_checkpoint(log, tmp_path):
    write_rewards(log, [1, 2, 3, 4])
    log.samples([sample(2), sample(3)])
    log.summary({"steps": 4})
    log.rewind(2)
    assert rewards(tmp_path) == [(1, 0.125), (2, 0.25)]
    assert read_samples(tmp_path) == [sample(2)]
    assert read_summary(tmp_path) is None
    write_rewards(log, [3])
    assert [step for step, _ in rewards(tmp_path)] == [1, 2, 3]


def test_resuming_before_the_first_step_starts_afresh(log, tmp_path):
    write_rewards(log, [0, 1])
    log.rewind(-1)
    assert read_metrics(tmp_path) == []


def test_rewriting_leaves_nothing_aside(log, tmp_path):
    write_rewards(log, [1, 2])
    log.rewind(1)
    log.summary({"steps": 1})
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "summary.json"}


class Listener:
    """Writes down what a logger is told."""

    def __init__(self):
        self.heard = []

    def scalars(self, step, now, metrics):
        self.heard.append((step, dict(metrics)))

    def restart_after(self, step):
        self.heard.append(("restart after", step))

    def close(self):
        self.heard.append("close")


class Deaf(Listener):
    def scalars(self, step, now, metrics):
        super().scalars(step, now, metrics)
        raise ConnectionError("the server is away")


def test_every_logger_hears_of_steps_of_going_back_and_of_the_end(tmp_path):
    listeners = [Listener(), Listener()]
    log = RunLog(tmp_path, listeners)
    log.step(1, {"good": np.float32(0.5), "nan": float("nan")})
    log.rewind(0)
    log.close()
    for listener in listeners:
        assert listener.heard == [(1, {"good": 0.5}), ("restart after", 0), "close"]


def test_a_logger_that_fails_is_dropped_and_the_rest_goes_on(tmp_path, caplog):
    deaf, listener = Deaf(), Listener()
    log = RunLog(tmp_path, [deaf, listener])
    write_rewards(log, [1, 2])
    log.close()
    assert [step for step, _ in deaf.heard] == [1]
    assert [step for step, _ in listener.heard[:2]] == [1, 2]
    assert rewards(tmp_path) == [(1, 0.125), (2, 0.25)]
    (warning,) = caplog.messages
    assert "Deaf failed" in warning
    assert "the server is away" in warning


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no metrics\.jsonl"):
        read_metrics(tmp_path)


def test_held_out_accuracy_comes_with_its_interval():
    metrics = {
        "val-core/sums/acc/mean@4": 0.1,
        "val-core/all/acc/mean@4": 0.25,
        "val-aux/all/acc/low@4": 0.2,
        "val-aux/all/acc/high@4": 0.3,
    }
    assert held_out_accuracy(metrics) == Accuracy(0.25, 0.2, 0.3)


def test_a_step_without_evaluation_has_no_held_out_accuracy():
    assert held_out_accuracy({"acc/mean": 0.5}) is None


def test_the_recorded_run_of_the_tests_is_one_that_the_log_reads():
    folder = Path(__file__).parents[1] / "data" / "run"
    steps = [record["step"] for record in read_metrics(folder)]
    assert steps == list(range(len(steps)))
    assert read_summary(folder)["steps"] == steps[-1]
    assert {sample["state"] for sample in read_samples(folder)} <= {0, 1, 2}
