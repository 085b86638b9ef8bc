"""From a run's folder to numbers."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from dps_ray.beliefs.prediction import confusion_matrix, prediction_metrics
from dps_ray.beliefs.states import PARTIAL, Observation
from pipelines.comparison.replay import Forecast, replayed
from pipelines.comparison.rows import (
    STATES,
    THIRDS,
    Bin,
    Cell,
    Coverage,
    Numbers,
    Point,
    Quality,
    Sampled,
    Total,
)
from pipelines.monitoring.accuracy_curve import spending
from pipelines.monitoring.run_log import read_metrics, read_summary
from pipelines.monitoring.timeline import Span, read_timeline

BINS = 10  # of P(partial)


def measure(method: str, seed: int, folder: Path) -> Numbers:
    """Everything about the finished run in this folder.

    Raises:
        DataError: it is no finished run.
        CheckpointError: its observation log is damaged.
    """
    run = (method, seed)
    records, replay = read_metrics(folder), replayed(folder)
    summary = read_summary(folder) or {}
    curve = points(run, records, read_timeline(folder))
    steps = curve[-1].step
    return Numbers(
        curves=curve,
        prediction=[_quality(run, f) for f in replay.forecasts],
        confusion=confusions(run, replay.forecasts, steps),
        calibration=calibration(run, replay.forecasts),
        coverage=coverages(run, replay.observations),
        times_sampled=[
            Sampled(*run, int(times), prompts)
            for times, prompts in summary.get("times_sampled", {}).items()
        ],
        runs=[_total(run, records, curve, list(replay.observations.values()), summary)],
    )


def points(
    run: tuple[str, int], records: Sequence[Mapping[str, float]], spans: Iterable[Span] = ()
) -> list[Point]:
    """A point for each recorded step."""
    return [
        Point(*run, effective=record.get("tasksample/partial_solve_ratio"), **spent._asdict())
        for spent, record in zip(spending(records, spans), records, strict=True)
    ]


def confusions(run: tuple[str, int], forecasts: Sequence[Forecast], steps: int) -> list[Cell]:
    """Nine cells for each third of `steps`, on the batch and on the probe, where there are forecasts."""
    counts: dict[tuple[str, str], Any] = {}
    for forecast in forecasts:
        third = THIRDS[min(3 * (forecast.step - 1) // steps, 2)]
        key = forecast.on, third
        counts[key] = counts.get(key, 0) + confusion_matrix(forecast.predicted, forecast.states)
    return [
        Cell(*run, on, third, STATES[i], STATES[j], int(count))
        for (on, third), matrix in sorted(
            counts.items(), key=lambda item: (item[0][0], THIRDS.index(item[0][1]))
        )
        for (i, j), count in np.ndenumerate(matrix)
    ]


def calibration(run: tuple[str, int], forecasts: Sequence[Forecast]) -> list[Bin]:
    """P(partial) in `BINS` equal bins, those that are not empty."""
    rows = []
    for on in ("batch", "probe"):
        mine = [f for f in forecasts if f.on == on]
        if not mine:
            continue
        p = np.concatenate([f.predicted[:, PARTIAL] for f in mine])
        partial = np.concatenate([f.states == PARTIAL for f in mine]).astype(np.float64)
        bins = np.minimum((p * BINS).astype(np.int64), BINS - 1)
        for bin_ in np.unique(bins):
            here = bins == bin_
            error = np.mean((p[here] - partial[here]) ** 2)
            means = float(p[here].mean()), float(partial[here].mean()), float(error)
            rows.append(Bin(*run, on, bin_ / BINS, (bin_ + 1) / BINS, int(here.sum()), *means))
    return rows


def coverages(run: tuple[str, int], observations: Mapping[int, Observation]) -> list[Coverage]:
    """A row a step."""
    seen: set[int] = set()
    batches = {step: set(o.ids.tolist()) for step, o in observations.items()}
    before: dict[int, set[int]] = {here: batches[last] for last, here in pairwise(batches)}
    rows = []
    for step, batch in batches.items():
        seen |= batch
        overlap = len(batch & before[step]) / len(batch) if step in before and batch else None
        rows.append(Coverage(*run, step, len(batch), len(seen), overlap))
    return rows


def brier(bins: Iterable[Bin]) -> tuple[float, float]:
    """The Brier score of these bins' forecasts, and that of always forecasting the share that was partial."""
    rows = list(bins)
    weights = [b.prompts for b in rows]
    share = np.average([b.observed for b in rows], weights=weights)
    score = np.average([b.squared_error for b in rows], weights=weights)
    return float(score), float(share * (1 - share))


def _quality(run: tuple[str, int], forecast: Forecast) -> Quality:
    found = prediction_metrics(forecast.predicted, forecast.states)
    names = ("precision_class2_micro", "recall_class2_micro", "f1_class2_micro")
    return Quality(
        *run,
        forecast.step,
        forecast.on,
        len(forecast.states),
        found["tasksample_hmmpred/predict_accuracy"],
        *(found.get(f"tasksample_hmmpred/{name}") for name in names),
    )


def _total(
    run: tuple[str, int],
    records: Sequence[Mapping[str, float]],
    curve: Sequence[Point],
    observations: Sequence[Observation],
    summary: Mapping[str, Any],
) -> Total:
    def spent(*phases: str) -> float:
        return sum(record.get(f"timing_s/{phase}", 0.0) for record in records for phase in phases)

    last = curve[-1]
    responses = sum(int(o.responses.sum()) for o in observations if o.responses is not None)
    groups = sum(len(o.ids) for o in observations)
    mixed = sum(int((o.states == PARTIAL).sum()) for o in observations)
    trained = sum(record.get("batch/useful_groups", 0.0) for record in records)
    carried = summary.get("gradient_share")
    return Total(
        *run,
        accuracy=last.accuracy,
        rollouts=last.rollouts,
        tokens=last.tokens,
        seconds=last.seconds,
        effective=float(np.mean([p.effective for p in curve if p.effective is not None])),
        distinct=int(records[-1]["coverage/distinct_prompts"]),
        choosing=spent("select", "observe") / spent("step"),
        group_size=responses / groups if responses else None,
        per_mixed=responses / mixed if responses and mixed else None,
        per_trained=responses / trained if responses and trained else None,
        wasted=None if carried is None else 1.0 - carried,
    )
