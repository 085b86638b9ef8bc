"""Where a run's metrics go besides metrics.jsonl: `loggers=[tensorboard,ray,wandb,mlflow]`.

    tensorboard   FOLDER/tensorboard/, for `tensorboard --logdir FOLDER`
    ray           gauges that Ray exports for Prometheus and the charts of its dashboard; see `GAUGES`
    wandb         Weights & Biases; its own environment variables decide where to (WANDB_MODE, WANDB_PROJECT, ...)
    mlflow        the server that MLFLOW_TRACKING_URI names, or FOLDER/mlflow/mlflow.db

A run has one identity at each of them, kept in its folder, so that a run that is continued goes on there too.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from dps_ray.deadline import within
from dps_ray.errors import ConfigError
from pipelines.monitoring import json_lines
from pipelines.monitoring.held_out import held_out_accuracy
from pipelines.monitoring.metrics import (
    BUSY_SHARE,
    EFFECTIVE_RATIO,
    PHASE_SECONDS,
    QUEUE_ROLLOUT,
    QUEUE_SCORE,
    RESTARTS_OF_KIND,
    REWARD_MEAN,
    STALENESS_MAX,
    STALENESS_MEAN,
    STEP_SECONDS,
    THROUGHPUT,
    describe,
)

_PARAMETERS_AT_ONCE = 100  # MLflow's own limit

_WANDB_SECONDS = 300.0  # for what is left to send at the end; W&B itself tries without an end
# A server that is silent is given up after a minute and a half; by MLflow's own settings after a quarter of an hour.
_MLFLOW_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "30", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}


class MetricsLogger(Protocol):
    """Takes the metrics of each step, finite values only."""

    def scalars(self, step: int, now: float, metrics: Mapping[str, float]) -> None:
        """`now` in Unix seconds; a step may come in several parts."""

    def restart_after(self, step: int) -> None:
        """The run goes back: later steps did not happen, and will come again."""

    def close(self) -> None: ...


def check_installed(names: Iterable[str]) -> None:
    """Raises ConfigError when a logger needs a package that is not there."""
    for name in names:
        needed, to_install = _packages(name)
        if missing := [package for package in needed if find_spec(package) is None]:
            raise ConfigError(
                f"loggers: {name} needs {', '.join(missing)}, not installed here: "
                f"run `pip install {to_install}`, or leave {name} out"
            )


def make_loggers(
    names: Iterable[str], folder: Path, settings: Mapping[str, Any]
) -> list[MetricsLogger]:
    """The loggers of the run in `folder`.

    Args:
        settings: the configuration, as a tree of plain values, shown beside the run where that is possible.

    Raises:
        ConfigError: a name is unknown, a package is missing, or a service refuses the run.
    """
    makers: dict[str, Callable[[], MetricsLogger]] = {
        "tensorboard": lambda: TensorBoard(folder / "tensorboard"),
        "ray": RayGauges,
        "wandb": lambda: WandB(folder, settings),
        "mlflow": lambda: MLflow(folder, settings),
    }
    wanted = list(dict.fromkeys(names))
    if unknown := [name for name in wanted if name not in makers]:
        raise ConfigError(f"unknown logger {unknown[0]!r}: write some of {', '.join(makers)}")
    check_installed(wanted)
    folder.mkdir(parents=True, exist_ok=True)
    return [makers[name]() for name in wanted]


class TensorBoard:
    """Event files by tensorboard's own writer: torch's would import torch into the driver."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = event_pb2, summary_pb2
        self._writer = EventFileWriter(str(folder))

    def scalars(self, step: int, now: float, metrics: Mapping[str, float]) -> None:
        values = [
            self._summary.Summary.Value(tag=name, simple_value=value)
            for name, value in metrics.items()
        ]
        summary = self._summary.Summary(value=values)
        self._writer.add_event(self._event.Event(wall_time=now, step=step, summary=summary))
        self._writer.flush()

    def restart_after(self, step: int) -> None:
        """Tells TensorBoard to drop what earlier event files hold beyond `step`."""
        start = self._event.SessionLog(status=self._event.SessionLog.START)
        event = self._event.Event(wall_time=time.time(), step=step + 1, session_log=start)
        self._writer.add_event(event)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Gauge(NamedTuple):
    name: str
    says: str
    tag: str = ""  # its value is the last part of the metric's name


_STEP_PHASES = _Gauge(
    "dps_ray_step_seconds",
    "Seconds of the last step by phase; the phase `step` is the whole of it",
    "phase",
)
_QUEUES = _Gauge("dps_ray_queue_length", "Items waiting", "queue")
_STALENESS = _Gauge(
    "dps_ray_staleness",
    "Updates that the weights were behind when they sampled the batch",
    "stat",
)
# The rows of the metrics' table that become gauges. A fixed and small set, as every series costs the whole cluster:
# never one a prompt.
GAUGES = {
    EFFECTIVE_RATIO: _Gauge(
        "dps_ray_effective_ratio", "Share of the batch's groups that carry gradient"
    ),
    THROUGHPUT: _Gauge("dps_ray_tokens_per_second", "Tokens generated, over the whole step"),
    REWARD_MEAN: _Gauge("dps_ray_reward_mean", "Mean reward of the batch"),
    PHASE_SECONDS: _STEP_PHASES,
    STEP_SECONDS: _STEP_PHASES,
    QUEUE_ROLLOUT: _QUEUES,
    QUEUE_SCORE: _QUEUES,
    STALENESS_MEAN: _STALENESS,
    STALENESS_MAX: _STALENESS,
    BUSY_SHARE: _Gauge("dps_ray_busy_share", "Share of the step in which the pool worked", "pool"),
    RESTARTS_OF_KIND: _Gauge("dps_ray_restarts", "Actors replaced so far", "kind"),
}
ACCURACY_GAUGE = _Gauge("dps_ray_accuracy", "Accuracy on held-out prompts, as last measured")


class RayGauges:
    """Metrics of the last step as gauges of this process, which Ray's own agents collect and export.

    Ray writes `ray_` before each name. They may be made and set before Ray is started; what was set then is lost.
    """

    def __init__(self) -> None:
        from ray.util.metrics import Gauge

        self._gauges = {
            gauge: Gauge(gauge.name, gauge.says, (gauge.tag,) if gauge.tag else None)
            for gauge in {*GAUGES.values(), ACCURACY_GAUGE}
        }

    def scalars(self, step: int, now: float, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            row = describe(name)
            if row and (gauge := GAUGES.get(row.name)):
                tags = {gauge.tag: name.rpartition("/")[2]} if gauge.tag else None
                self._gauges[gauge].set(value, tags)
        if accuracy := held_out_accuracy(metrics):
            self._gauges[ACCURACY_GAUGE].set(accuracy.mean)

    def restart_after(self, step: int) -> None:
        """A gauge shows what is now, and remembers nothing."""

    def close(self) -> None:
        """Ray forgets the gauges with the process."""


class WandB:
    """Weights & Biases. What its environment variables set stays as they say.

    The x axis is our step, not the count of calls, which W&B lets nobody take back: after going back to a checkpoint
    the repeated steps lie on the ones they repeat.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        import wandb

        ours = {
            "WANDB_PROJECT": ("project", "dps_ray"),
            "WANDB_NAME": ("name", folder.name),
            "WANDB_DIR": ("dir", str(folder)),
            "WANDB_RUN_ID": ("id", _kept(folder / "wandb_run_id", lambda: uuid.uuid4().hex)),
            "WANDB_RESUME": ("resume", "allow"),
        }
        chosen = {key: value for name, (key, value) in ours.items() if name not in os.environ}
        # The terminal shows the live view, which is no log to keep a copy of.
        quiet = {} if "WANDB_CONSOLE" in os.environ else {"console": "off"}
        try:
            self._run = wandb.init(
                config=dict(settings), settings=wandb.Settings(**quiet), **chosen
            )
        except wandb.Error as error:
            raise ConfigError(
                f"loggers: wandb refuses the run ({error}); run `wandb login`, or set WANDB_MODE=offline"
            ) from None
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, now: float, metrics: Mapping[str, float]) -> None:
        self._run.log({"step": step, **metrics})

    def restart_after(self, step: int) -> None:
        """W&B keeps what it was told."""

    def close(self) -> None:
        within(_WANDB_SECONDS, self._run.finish)


class MLflow:
    """MLflow, by its client: one run in the experiment `dps_ray`, or the one MLFLOW_EXPERIMENT_NAME names.

    MLflow keeps what it was told: after going back to a checkpoint, the repeated steps have two values each.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        for name, value in _MLFLOW_PATIENCE.items():
            os.environ.setdefault(name, value)
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        store = None  # is MLflow's own environment
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            (folder / "mlflow").mkdir(exist_ok=True)
            store = f"sqlite:///{folder.absolute()}/mlflow/mlflow.db"
        kept = folder / "mlflow_run_id"
        try:
            self._client = MlflowClient(store)
            self._run = _kept(kept, lambda: self._begin(folder.name, settings))
            self._client.update_run(self._run, status="RUNNING")
        except MlflowException as error:
            raise ConfigError(
                f"loggers: mlflow refuses the run ({error}); if the store is not the one the run began with, "
                f"set MLFLOW_TRACKING_URI to that one, or remove {kept} to begin another MLflow run"
            ) from None

    def scalars(self, step: int, now: float, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        milliseconds = int(now * 1000)
        self._client.log_batch(
            self._run,
            metrics=[
                Metric(_mlflow_name(name), value, milliseconds, step)
                for name, value in metrics.items()
            ],
        )

    def restart_after(self, step: int) -> None:
        """MLflow keeps what it was told."""

    def close(self) -> None:
        self._client.set_terminated(self._run)

    def _begin(self, name: str, settings: Mapping[str, Any]) -> str:
        """The id of a new run, with the settings as its parameters."""
        from mlflow.entities import Param

        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", "dps_ray")
        experiment = self._client.get_experiment_by_name(title)
        number = experiment.experiment_id if experiment else self._client.create_experiment(title)
        run: str = self._client.create_run(number, run_name=name).info.run_id
        parameters = [Param(key, str(value)) for key, value in _leaves(settings)]
        for start in range(0, len(parameters), _PARAMETERS_AT_ONCE):
            self._client.log_batch(run, params=parameters[start : start + _PARAMETERS_AT_ONCE])
        return run


def _packages(logger: str) -> tuple[list[str], str]:
    """The packages that a logger imports, and what to install for them."""
    if logger == "wandb":
        return ["wandb"], "wandb"
    if logger == "mlflow":
        # Of MLflow's own stores only the database is not on its way out; a server needs none here.
        database = [] if os.environ.get("MLFLOW_TRACKING_URI") else ["sqlalchemy", "alembic"]
        return ["mlflow", *database], " ".join(["mlflow-skinny", *database])
    return [], ""


def _mlflow_name(name: str) -> str:
    """MLflow allows letters, digits and `_-. /` in names: `acc/mean@4` becomes `acc/mean_4`."""
    return re.sub(r"[^\w\-. /]", "_", name)


def _kept(path: Path, make: Callable[[], str]) -> str:
    """The text in a file, which is made if there is none."""
    if not path.is_file():
        json_lines.replace(path, make().encode())
    return path.read_text()


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested settings by their dotted names, as overrides write them."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value
