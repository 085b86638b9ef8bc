"""What a run leaves behind in its folder, and how to read it again.

    metrics.jsonl   one JSON object a line: step, time (Unix seconds), then the metrics of that step
    probes.jsonl    what each uniform probe found: step, ids (ascending), successes, responses
    samples.jsonl   a few rollouts a step, with score and solve state
    events.jsonl    what was lost and came back: kind, name, why, seconds until it was back, time
    summary.json    the closing account; there only when the run has finished
    tensorboard/    the same metrics as TensorBoard events

Step 0 is the evaluation before training. Each line is handed to the system whole; a run that is killed leaves at
most one torn last line, which reading drops and the next writer cuts off.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Collection, Iterable, Mapping
from operator import methodcaller
from pathlib import Path
from typing import Any, NamedTuple

from dps_ray.errors import ConfigError, DataError
from dps_ray.states import Observation

METRICS, SAMPLES, SUMMARY = "metrics.jsonl", "samples.jsonl", "summary.json"
EVENTS, PROBES = "events.jsonl", "probes.jsonl"

# The parts of a step in the order they happen, as in the metrics `timing_s/<phase>`; `timing_s/step`
# holds all but the last two, which come at some steps only, and beside the step. `checkpoint` is the wait for
# one that was not written by the time the batch was rolled out.
IN_STEP = ("select", "generate", "score", "checkpoint", "observe", "train", "publish")
PHASES = (*IN_STEP, "probe", "eval")

_HELD_OUT = "val-core/all/acc/mean@"


class Accuracy(NamedTuple):
    """Accuracy on held-out prompts, in [0, 1], and the ends of its 95% interval."""

    mean: float
    low: float
    high: float


def held_out_accuracy(metrics: Mapping[str, float]) -> Accuracy | None:
    """The accuracy over all held-out prompts, or None where a step was not evaluated.

    Reads `val-core/all/acc/mean@N` with `val-aux/all/acc/low@N` and `high@N`, N responses a prompt.
    """
    for name in metrics:
        if name.startswith(_HELD_OUT):
            n = name.removeprefix(_HELD_OUT)
            low, high = (metrics[f"val-aux/all/acc/{end}@{n}"] for end in ("low", "high"))
            return Accuracy(metrics[name], low, high)
    return None


class RunLog:
    """Writes a run's records into its folder, which is made if need be.

    `loggers` names what to write besides the JSON files: "tensorboard" or nothing.
    Values that are not finite are left out, since neither JSON nor a chart has a place for them.
    """

    def __init__(self, folder: Path, loggers: Collection[str]) -> None:
        if unknown := set(loggers) - {"tensorboard"}:
            raise ConfigError(
                f"unknown logger {sorted(unknown)[0]!r}: write 'tensorboard', or [] for none; "
                f"{METRICS} is always written"
            )
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._events = _EventLog(folder / "tensorboard") if "tensorboard" in loggers else None
        for name in (METRICS, SAMPLES, PROBES, EVENTS):
            _cut_torn_line(folder / name)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends the metrics of one step; called again for the same step, it adds to them."""
        now = time.time()
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        _append(self._folder / METRICS, [{"step": step, "time": now, **finite}])
        if self._events:
            self._events.scalars(step, now, finite)

    def samples(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Appends rollouts: step, prompt_id, data_source, prompt, response, score, acc, state, ground_truth."""
        _append(self._folder / SAMPLES, records)

    def probe(self, step: int, found: Observation) -> None:
        """Appends what a uniform probe found before a step."""
        record = {
            "step": step,
            "ids": found.ids.tolist(),
            "successes": found.successes.tolist(),
            "responses": found.responses.tolist(),
        }
        _append(self._folder / PROBES, [record])

    def event(self, record: Mapping[str, Any]) -> None:
        """Appends something that happened beside the steps."""
        _append(self._folder / EVENTS, [{"time": time.time(), **record}])

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Writes the closing account, whole or not at all."""
        text = json.dumps(_finite(summary), indent=2, default=methodcaller("item"))
        _replace(self._folder / SUMMARY, text.encode() + b"\n")

    def resume_at(self, step: int) -> None:
        """Forgets what was recorded after `step`: the run goes on from its checkpoint at that step."""
        for name in (METRICS, SAMPLES, PROBES):
            path = self._folder / name
            kept = [record for record in _read_lines(path) if record["step"] <= step]
            if kept or path.is_file():
                _replace(path, _encode(kept))
        (self._folder / SUMMARY).unlink(missing_ok=True)
        if self._events:
            self._events.restart_after(step)

    def close(self) -> None:
        if self._events:
            self._events.close()


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The metrics of each recorded step, ascending; several lines of one step become one record.

    Raises DataError when the folder holds no metrics, or a line before the last is not JSON.
    """
    if not (folder / METRICS).is_file():
        raise DataError(f"{folder} has no {METRICS}: give the folder of a run")
    steps: dict[int, dict[str, float]] = {}
    for record in _read_lines(folder / METRICS):
        steps.setdefault(record["step"], {}).update(record)
    return [steps[step] for step in sorted(steps)]


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """The sampled rollouts in the order they were written; none when none were."""
    return _read_lines(folder / SAMPLES)


def read_summary(folder: Path) -> dict[str, Any] | None:
    """The closing account, or None while the run has not finished."""
    path = folder / SUMMARY
    return json.loads(path.read_text()) if path.is_file() else None


class _EventLog:
    """TensorBoard events by tensorboard's own writer: torch's would import torch into the driver."""

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


def read_events(folder: Path) -> list[dict[str, Any]]:
    """What happened beside the steps, in its order."""
    return _read_lines(folder / EVENTS)


def _finite(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in record.items()
        if not (isinstance(value, float) and not math.isfinite(value))
    }


def _encode(records: Iterable[Mapping[str, Any]]) -> bytes:
    # NumPy's and torch's scalars become Python's by their .item().
    lines = [json.dumps(_finite(record), default=methodcaller("item")) for record in records]
    return "".join(line + "\n" for line in lines).encode()


def _append(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    with path.open("ab") as file:
        file.write(_encode(records))


def _replace(path: Path, content: bytes) -> None:
    """Writes aside and renames, so that a kill leaves the old file or the new one."""
    aside = path.with_name(path.name + ".partial")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSONL file; empty when there is no file; a torn last line is left out."""
    lines = path.read_bytes().split(b"\n") if path.is_file() else [b""]
    records = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise DataError(f"{path}, line {number} is not JSON ({error}): remove it") from None
    return records


def _cut_torn_line(path: Path) -> None:
    """Drops what follows the last line end, lest the next record be glued to it."""
    if path.is_file():
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            _replace(path, content[: content.rfind(b"\n") + 1])
