import os
import struct
import subprocess
import sys
import time
import urllib.request

import pytest
import ray
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dps_ray import settings
from dps_ray.errors import ConfigError
from pipelines import loggers
from pipelines.loggers import (
    MLflow,
    RayGauges,
    TensorBoard,
    WandB,
    check_installed,
    make_loggers,
)

SETTINGS = {"method": "dps", "loop": {"steps": 60}, "eval": {}}
EXPORTED_WITHIN = 60.0  # seconds; Ray's agents collect every ten


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "a run"
    folder.mkdir()
    return folder


@pytest.fixture
def no_mlflow_server(monkeypatch):
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)


def killed_and_resumed(make):
    """A run of steps 1 to 3, killed, and continued after its step 1 by a second process."""
    killed = make()
    for step in (1, 2, 3):
        killed.scalars(step, 1.8e9 + step, {"acc/mean@4": 0.0})
    killed.close()
    resumed = make()
    resumed.restart_after(1)
    for step in (2, 3):
        resumed.scalars(step, 1.8e9 + 10 + step, {"acc/mean@4": 1.0})
    resumed.close()


def test_tensorboard_shows_the_resumed_run_and_not_the_lost_steps(tmp_path):
    killed_and_resumed(lambda: TensorBoard(tmp_path))
    events = EventAccumulator(str(tmp_path)).Reload()
    points = [(event.step, event.value) for event in events.Scalars("acc/mean@4")]
    assert points == [(1, 0.0), (2, 1.0), (3, 1.0)]


def test_only_the_loggers_that_are_named_are_made(tmp_path):
    assert make_loggers([], tmp_path, SETTINGS) == []
    (made,) = make_loggers(["tensorboard", "tensorboard"], tmp_path / "run", SETTINGS)
    made.close()
    assert isinstance(made, TensorBoard)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["tensorboard"]


def test_an_unknown_logger_is_named_with_those_there_are(tmp_path):
    with pytest.raises(
        ConfigError, match=r"'visdom': write some of tensorboard, ray, wandb, mlflow"
    ):
        make_loggers(["tensorboard", "visdom"], tmp_path, SETTINGS)
    with pytest.raises(ConfigError, match="visdom"):
        settings.load(None, ["loggers=[visdom]"])


def test_a_run_may_name_every_logger():
    names = ["tensorboard", "ray", "wandb", "mlflow"]
    assert settings.load(None, [f"loggers=[{','.join(names)}]"]).loggers == names


@pytest.mark.parametrize(
    ("name", "install"),
    [("wandb", "pip install wandb"), ("mlflow", "pip install mlflow-skinny sqlalchemy alembic")],
)
def test_a_package_that_is_missing_is_named_with_the_command_that_brings_it(
    name, install, no_mlflow_server, monkeypatch, tmp_path
):
    monkeypatch.setattr(loggers, "find_spec", lambda package: None)
    with pytest.raises(ConfigError, match=install):
        check_installed(["tensorboard", name])
    with pytest.raises(ConfigError, match=install):
        make_loggers(["tensorboard", name], tmp_path, SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_mlflow_with_a_server_needs_no_database(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    monkeypatch.setattr(loggers, "find_spec", lambda package: None)
    with pytest.raises(ConfigError, match="`pip install mlflow-skinny`"):
        check_installed(["mlflow"])


# Ray


@ray.remote(num_cpus=0)
class Exporting:
    """A process that has set no gauges before."""

    def __init__(self):
        self.gauges = RayGauges()

    def scalars(self, step, metrics):
        self.gauges.scalars(step, time.time(), metrics)
        return ray.get_runtime_context().get_worker_id()


def exported(worker, wanted):
    """What Ray's own metrics page has of this process, of series that begin with `ray_dps_ray_`:
    {(name, tag): value}, once there are as many as wanted."""
    port = ray.nodes()[0]["MetricsExportPort"]
    deadline = time.monotonic() + EXPORTED_WITHIN
    while time.monotonic() < deadline:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=10) as page:
            lines = page.read().decode().splitlines()
        ours = [line for line in lines if line.startswith("ray_dps_ray_") and worker in line]
        series = dict(map(_series, ours))
        if len(series) >= wanted:
            return series
        time.sleep(0.5)
    raise AssertionError(f"within {EXPORTED_WITHIN} s Ray exported only {series}")


def _series(line):
    name, rest = line.split("{")
    labels, value = rest.rsplit("} ")
    ours = [
        label.split("=")[1].strip('"')
        for label in labels.split(",")
        if label.split("=")[0] in {"phase", "queue", "stat", "pool", "kind"}
    ]
    return (name.removeprefix("ray_dps_ray_"), *ours), float(value)


@pytest.mark.slow
def test_ray_exports_the_gauges_and_no_other_metric(local_ray):
    exporting = Exporting.remote()
    exporting.scalars.remote(
        0,
        {
            "val-core/all/acc/mean@4": 0.25,
            "val-aux/all/acc/low@4": 0.2,
            "val-aux/all/acc/high@4": 0.3,
            "timing_s/eval": 7.0,
        },
    )
    told = exporting.scalars.remote(
        1,
        {
            "tasksample/partial_solve_ratio": 0.5,
            "perf/throughput": 8000.0,
            "critic/rewards/mean": 0.75,
            "timing_s/train": 1.5,
            "timing_s/step": 3.0,
            "timing_s/prompt-9": 1.0,
            "queue/trajectories": 4.0,
            "staleness/mean": 1.25,
            "staleness/max": 2.0,
            "staleness/of/prompt-9": 2.0,
            "busy/rollout": 0.875,
            "busy/learner": 0.125,
            "recovery/restarts": 3.0,
            "recovery/restarts/verifier": 3.0,
            "actor/entropy": 0.1,
        },
    )
    expected = {
        ("accuracy",): 0.25,
        ("effective_ratio",): 0.5,
        ("tokens_per_second",): 8000.0,
        ("reward_mean",): 0.75,
        ("step_seconds", "eval"): 7.0,
        ("step_seconds", "train"): 1.5,
        ("step_seconds", "step"): 3.0,
        ("queue_length", "trajectories"): 4.0,
        ("staleness", "mean"): 1.25,
        ("staleness", "max"): 2.0,
        ("busy_share", "rollout"): 0.875,
        ("busy_share", "learner"): 0.125,
        ("restarts", "verifier"): 3.0,
    }
    assert exported(ray.get(told), len(expected)) == expected


def test_gauges_may_be_set_where_no_ray_is_started():
    code = (
        "from pipelines.loggers import RayGauges; gauges = RayGauges(); "
        "gauges.scalars(1, 0.0, {'perf/throughput': 1.0}); gauges.close()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Weights & Biases


@pytest.fixture
def wandb(monkeypatch):
    wandb = pytest.importorskip("wandb")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield wandb
    wandb.teardown()  # else the next test finds this one's environment


def told_wandb(run):
    """What the offline files of a run's folder hold, in order: (the run, a dict for each call of log)."""
    from wandb.proto.wandb_internal_pb2 import Record

    files = sorted(
        run.glob("wandb/offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime_ns
    )
    for file in files:
        records = [Record.FromString(data) for data in _log_records(file.read_bytes()[7:])]
        (begun,) = (record.run for record in records if record.WhichOneof("record_type") == "run")
        rows = [
            {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
            for record in records
            if record.WhichOneof("record_type") == "history"
        ]
        yield begun, rows


def _log_records(content):
    """The records of a log in LevelDB's format, which W&B writes behind a header of 7 bytes: blocks of 32 KiB, of
    parts with checksum, length and kind (1 whole, 2 first, 3 middle, 4 last)."""
    at, parts = 0, []
    while at + 7 <= len(content):
        left = 32768 - (at + 7) % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        parts.append(content[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):
            yield b"".join(parts)
            parts = []


def test_wandb_goes_on_with_the_same_run(wandb, run):
    killed_and_resumed(lambda: WandB(run, SETTINGS))
    (first, killed), (second, resumed) = told_wandb(run)
    assert first.run_id == second.run_id
    assert (first.project, first.display_name) == ("dps_ray", "a run")
    assert [(row["step"], row["acc/mean@4"]) for row in killed] == [
        ("1", "0"),
        ("2", "0"),
        ("3", "0"),
    ]
    assert [(row["step"], row["acc/mean@4"]) for row in resumed] == [("2", "1"), ("3", "1")]
    config = {item.key: item.value_json for item in first.config.update}
    assert config["method"] == '"dps"'


def test_what_wandbs_own_environment_says_stays(wandb, run, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "ours")
    monkeypatch.setenv("WANDB_NAME", "the third try")
    monkeypatch.setenv("WANDB_RUN_ID", "abc123")
    WandB(run, SETTINGS).close()
    ((begun, _),) = told_wandb(run)
    assert (begun.project, begun.display_name, begun.run_id) == ("ours", "the third try", "abc123")


def test_wandb_without_an_account_says_what_to_do(wandb, run, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NETRC", str(run / "none"))
    with pytest.raises(ConfigError, match=r"wandb login.*WANDB_MODE=offline"):
        WandB(run, SETTINGS)


# MLflow


@pytest.fixture
def mlflow(no_mlflow_server):
    for package in ("sqlalchemy", "alembic"):
        pytest.importorskip(package)
    return pytest.importorskip("mlflow")


def client_of(run):
    from mlflow.tracking import MlflowClient

    return MlflowClient(f"sqlite:///{run}/mlflow/mlflow.db")


@pytest.mark.slow
def test_mlflow_goes_on_with_the_same_run(mlflow, run):
    killed_and_resumed(lambda: MLflow(run, SETTINGS))
    client = client_of(run)
    experiment = client.get_experiment_by_name("dps_ray")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == "a run"
    assert found.info.status == "FINISHED"
    assert found.data.params == {"method": "dps", "loop.steps": "60", "eval": "{}"}
    points = [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, "acc/mean_4")]
    assert sorted(points) == [(1, 0.0), (2, 0.0), (2, 1.0), (3, 0.0), (3, 1.0)]


@pytest.mark.slow
def test_mlflow_takes_the_name_of_every_metric_and_every_setting(mlflow, run):
    from pipelines.run_log import read_metrics
    from tests.pipelines.test_report import RECORDED

    recorded = read_metrics(RECORDED)[0] | read_metrics(RECORDED)[-1]
    made = MLflow(run, settings.load(None, []).model_dump(mode="json"))
    made.scalars(
        1, 1.8e9, {**recorded, "recovery/restarts": 1.0, "recovery/restarts/verifier": 1.0}
    )
    made.close()
    found = client_of(run).get_run((run / "mlflow_run_id").read_text())
    assert len(found.data.metrics) == len(recorded) + 2
    assert found.data.params["rollout.group_size"] == "8"


@pytest.mark.slow
def test_mlflow_that_does_not_know_the_run_says_what_to_do(mlflow, run):
    (run / "mlflow_run_id").write_text("0" * 32)
    with pytest.raises(ConfigError, match=r"mlflow refuses.*MLFLOW_TRACKING_URI.*mlflow_run_id"):
        MLflow(run, SETTINGS)
