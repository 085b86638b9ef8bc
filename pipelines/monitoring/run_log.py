"""What a run leaves behind in its folder, and how to read it again.

    metrics.jsonl   one JSON object a line: step, time (Unix seconds), then the metrics of that step
    probes.jsonl    what each uniform probe found: step, ids (ascending), successes, responses
    samples.jsonl   a few rollouts a step, with score and solve state
    set_aside.jsonl prompts that were drawn and cannot be used: step, prompt_id, why
    events.jsonl    what was lost and came back: kind, name, why, seconds until it was back, time
    summary.json    the closing account; there only when the run has finished

Step 0 is the evaluation before training. The metrics also go to loggers (`pipelines/monitoring/loggers.py`), TensorBoard and
others; how the files outlive a kill is told in `pipelines/monitoring/json_lines.py`.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dps_ray.beliefs.states import Observation
from dps_ray.errors import DataError
from pipelines.monitoring import json_lines

if TYPE_CHECKING:
    from pipelines.monitoring.loggers import MetricsLogger

METRICS, SAMPLES, SUMMARY = "metrics.jsonl", "samples.jsonl", "summary.json"
EVENTS, PROBES, SET_ASIDE = "events.jsonl", "probes.jsonl", "set_aside.jsonl"

_LOG = logging.getLogger(__name__)


class RunLog:
    """Writes a run's records into its folder, which is made if need be.

    Values that are not finite are left out, since neither JSON nor a chart has a place for them. A logger that
    raises is dropped with a warning: a server that is away must not end a run whose metrics are in its files.

    Args:
        loggers: where the metrics go besides; closed with the log.
    """

    def __init__(self, folder: Path, loggers: Iterable[MetricsLogger] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._loggers = list(loggers)
        for name in (METRICS, SAMPLES, PROBES, SET_ASIDE, EVENTS):
            json_lines.cut_torn_line(folder / name)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends the metrics of one step; called again for the same step, it adds to them."""
        now = time.time()
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        json_lines.append(self._folder / METRICS, [{"step": step, "time": now, **finite}])
        self._tell(lambda logger: logger.scalars(step, now, finite))

    def samples(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Appends rollouts: step, prompt_id, data_source, prompt, response, score, acc, state, ground_truth."""
        json_lines.append(self._folder / SAMPLES, records)

    def probe(self, step: int, found: Observation) -> None:
        """Appends what a uniform probe found before a step."""
        assert found.successes is not None
        assert found.responses is not None
        record = {
            "step": step,
            "ids": found.ids.tolist(),
            "successes": found.successes.tolist(),
            "responses": found.responses.tolist(),
        }
        if found.clusters is not None:
            record["clusters"] = found.clusters.tolist()
        json_lines.append(self._folder / PROBES, [record])

    def set_aside(self, step: int, reasons: Mapping[int, Exception]) -> None:
        """Appends prompts that cannot be used, and why."""
        records = [
            {"step": step, "prompt_id": id_, "why": str(why)} for id_, why in reasons.items()
        ]
        if records:
            json_lines.append(self._folder / SET_ASIDE, records)

    def event(self, record: Mapping[str, Any]) -> None:
        """Appends something that happened beside the steps."""
        json_lines.append(self._folder / EVENTS, [{"time": time.time(), **record}])

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Writes the closing account, whole or not at all."""
        json_lines.replace(self._folder / SUMMARY, json_lines.encode(summary, indent=2).encode())

    def rewind(self, step: int) -> None:
        """Forgets what was recorded after `step`: the run goes on from its checkpoint at that step."""
        for name in (METRICS, SAMPLES, PROBES, SET_ASIDE):
            json_lines.forget_after(self._folder / name, step)
        (self._folder / SUMMARY).unlink(missing_ok=True)
        self._tell(lambda logger: logger.restart_after(step))

    def close(self) -> None:
        self._tell(lambda logger: logger.close())

    def _tell(self, what: Callable[[MetricsLogger], None]) -> None:
        for logger in tuple(self._loggers):
            try:
                what(logger)
            except Exception as error:
                self._loggers.remove(logger)
                _LOG.warning(
                    "%s failed and gets no more metrics (%s); %s goes on",
                    type(logger).__name__,
                    error,
                    METRICS,
                )


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The metrics of each recorded step, ascending; several lines of one step become one record.

    Raises DataError when the folder holds no metrics, or a line before the last is not JSON.
    """
    if not (folder / METRICS).is_file():
        raise DataError(f"{folder} has no {METRICS}: give the folder of a run")
    steps: dict[int, dict[str, float]] = {}
    for record in json_lines.read(folder / METRICS):
        steps.setdefault(record["step"], {}).update(record)
    return [steps[step] for step in sorted(steps)]


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """The sampled rollouts in the order they were written; none when none were."""
    return json_lines.read(folder / SAMPLES)


def read_summary(folder: Path) -> dict[str, Any] | None:
    """The closing account, or None while the run has not finished."""
    path = folder / SUMMARY
    return json.loads(path.read_text()) if path.is_file() else None


def read_events(folder: Path) -> list[dict[str, Any]]:
    """What happened beside the steps, in its order."""
    return json_lines.read(folder / EVENTS)
