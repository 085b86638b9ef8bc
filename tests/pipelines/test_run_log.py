from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dps_ray.errors import ConfigError, DataError
from pipelines.run_log import (
    Accuracy,
    RunLog,
    held_out_accuracy,
    read_metrics,
    read_samples,
    read_summary,
)


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
    log.resume_at(2)
    assert rewards(tmp_path) == [(1, 0.125), (2, 0.25)]
    assert read_samples(tmp_path) == [sample(2)]
    assert read_summary(tmp_path) is None
    write_rewards(log, [3])
    assert [step for step, _ in rewards(tmp_path)] == [1, 2, 3]


def test_resuming_before_the_first_step_starts_afresh(log, tmp_path):
    write_rewards(log, [0, 1])
    log.resume_at(-1)
    assert read_metrics(tmp_path) == []


def test_rewriting_leaves_nothing_aside(log, tmp_path):
    write_rewards(log, [1, 2])
    log.resume_at(1)
    log.summary({"steps": 1})
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "summary.json"}


def test_tensorboard_shows_the_resumed_run_and_not_the_lost_steps(tmp_path):
    killed = RunLog(tmp_path, ["tensorboard"])
    for step in (1, 2, 3):
        killed.step(step, {"critic/rewards/mean": 0.0})
    killed.close()
    resumed = RunLog(tmp_path, ["tensorboard"])
    resumed.resume_at(1)
    for step in (2, 3):
        resumed.step(step, {"critic/rewards/mean": 1.0})
    resumed.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    points = [(event.step, event.value) for event in events.Scalars("critic/rewards/mean")]
    assert points == [(1, 0.0), (2, 1.0), (3, 1.0)]


def test_without_the_logger_there_is_no_tensorboard_folder(log, tmp_path):
    write_rewards(log, [1])
    assert not (tmp_path / "tensorboard").exists()


def test_an_unknown_logger_is_named(tmp_path):
    with pytest.raises(ConfigError, match="'wandb'"):
        RunLog(tmp_path, ["tensorboard", "wandb"])


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
