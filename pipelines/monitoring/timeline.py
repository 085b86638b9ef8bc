"""When each pool worked, as it happened: `timeline.jsonl` in the run's folder.

A pool is made of lanes, each of which does one thing after the other: `driver`, `learner`, `rollout/0`, `rollout/1`,
`verifier/0`. A span is one piece of work in a lane. To look at them all in Perfetto (https://ui.perfetto.dev) or
chrome://tracing:

    python -m pipelines.timeline RUN_FOLDER
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dps_ray.errors import DataError
from pipelines.monitoring import json_lines

TIMELINE, TRACE = "timeline.jsonl", "timeline.trace.json"


class Span(NamedTuple):
    """A piece of work: in which lane, what it was and for which step; Unix seconds."""

    pool: str
    name: str
    step: int
    began: float
    ended: float


class Timeline:
    """Writes spans into a run's folder, which is made if need be. Threads may share one."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / TIMELINE
        json_lines.cut_torn_line(self._path)

    def add(self, pool: str, name: str, step: int, began: float, ended: float) -> None:
        """Appends a span; `pool` names the lane, as `rollout/0`."""
        json_lines.append(self._path, [Span(pool, name, step, began, ended)._asdict()])

    def rewind(self, step: int) -> None:
        """Forgets the work for later steps: the run goes on from its checkpoint at that step."""
        json_lines.forget_after(self._path, step)


def read_timeline(folder: Path) -> list[Span]:
    """The spans in the order they were written, which is about that of their ends; none when none were.

    Raises DataError when a line before the last is not JSON.
    """
    return [Span(**record) for record in json_lines.read(folder / TIMELINE)]


def lanes(spans: Iterable[Span]) -> list[str]:
    """The lanes there are, pool by pool, each in the order of its numbers."""

    def place(lane: str) -> tuple[str, int, str]:
        pool, _, rest = lane.partition("/")
        return pool, int(rest) if rest.isdecimal() else -1, rest

    return sorted({span.pool for span in spans}, key=place)


def busy_share(spans: Sequence[Span], pool: str, began: float, ended: float) -> float:
    """Share of a time window in which a pool worked, in [0, 1]: the mean over its lanes.

    A lane works while any of its spans lasts. Lanes are those in `spans`, be it outside the window; a pool without
    one has not worked. Raises ValueError when the window is empty.
    """
    if not began < ended:
        raise ValueError(f"the window from {began} to {ended} is empty")
    by_lane: dict[str, list[Span]] = {}
    for span in spans:
        if span.pool == pool or span.pool.startswith(pool + "/"):
            by_lane.setdefault(span.pool, []).append(span)
    if not by_lane:
        return 0.0
    worked = sum(_seconds_covered(lane, began, ended) for lane in by_lane.values())
    return worked / (ended - began) / len(by_lane)


def _seconds_covered(spans: Iterable[Span], began: float, ended: float) -> float:
    """Length of the union of spans within a window."""
    covered, until = 0.0, began
    for span in sorted(spans, key=lambda span: span.began):
        start, end = max(span.began, until), min(span.ended, ended)
        covered += max(end - start, 0.0)
        until = max(until, end)
    return covered


def trace(spans: Sequence[Span]) -> dict[str, Any]:
    """The spans in Chrome's trace-event format, a row a lane; time 0 is the first span's beginning.

    Spans of a lane that overlap, which the format cannot hold in one row, go to a second row of the same name.
    """
    zero = min((span.began for span in spans), default=0.0)
    events: list[dict[str, Any]] = []
    row = 0
    for lane in lanes(spans):
        for together in _rows([span for span in spans if span.pool == lane]):
            events += [
                {"ph": "M", "name": "thread_name", "pid": 0, "tid": row, "args": {"name": lane}},
                {
                    "ph": "M",
                    "name": "thread_sort_index",
                    "pid": 0,
                    "tid": row,
                    "args": {"sort_index": row},
                },
            ]
            events += [
                {
                    "ph": "X",
                    "name": span.name,
                    "cat": lane.partition("/")[0],
                    "pid": 0,
                    "tid": row,
                    "ts": round(1e6 * (span.began - zero)),
                    "dur": round(1e6 * (span.ended - span.began)),
                    "args": {"step": span.step},
                }
                for span in together
            ]
            row += 1
    return {"displayTimeUnit": "ms", "traceEvents": events}


def _rows(spans: Iterable[Span]) -> list[list[Span]]:
    """The spans on as few rows as hold them without overlap."""
    rows: list[list[Span]] = []
    for span in sorted(spans, key=lambda span: span.began):
        for row in rows:
            if row[-1].ended <= span.began:
                row.append(span)
                break
        else:
            rows.append([span])
    return rows


def write_trace(folder: Path) -> Path:
    """Writes `timeline.trace.json` into a run's folder and returns its path.

    Raises DataError when the folder has no timeline.
    """
    spans = read_timeline(folder)
    if not spans:
        raise DataError(f"{folder} has no span in a {TIMELINE}: give the folder of a run that has")
    path = folder / TRACE
    path.write_text(json.dumps(trace(spans)))
    return path
