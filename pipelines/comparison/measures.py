"""From a run's folder to numbers: each class below is the rows of one CSV file."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from dps_ray.beliefs.prediction import confusion_matrix, prediction_metrics
from dps_ray.beliefs.states import PARTIAL, Observation
from pipelines.comparison.replay import Forecast, replayed
from pipelines.monitoring.held_out import held_out_accuracy
from pipelines.monitoring.run_log import read_metrics, read_summary

THIRDS = ("early", "middle", "late")
STATES = ("unsolved", "partial", "solved")
BINS = 10  # of P(partial)


@dataclass(frozen=True)
class Row:
    """What every row begins with: the entry's name, and the seed of the run."""

    method: str
    seed: int


@dataclass(frozen=True)
class Point(Row):
    """curves.csv: a run after `step`; rollouts, tokens and seconds since its beginning.

    seconds:   of steps and probes; evaluations measure, and are left out
    effective: share of partial groups among all that the step rolled out; None at step 0
    accuracy:  on held-out prompts; None where it was not measured
    """

    step: int
    rollouts: int
    tokens: int
    seconds: float
    effective: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Quality(Row):
    """prediction.csv: of one step's forecast; precision, recall and F1 are of *partial*, and None where they
    divide by 0."""

    step: int
    on: str
    prompts: int
    accuracy: float
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Cell(Row):
    """confusion.csv: prompts by predicted and seen state, in a third of the run's steps."""

    on: str
    third: str
    predicted: str
    seen: str
    prompts: int


@dataclass(frozen=True)
class Bin(Row):
    """calibration.csv: forecasts with P(partial) from `low` on and below `high`.

    predicted:     their mean P(partial)
    observed:      the share of them that were partial
    squared_error: mean of (P(partial) - [was partial])^2; its mean over all forecasts is the Brier score
    """

    on: str
    low: float
    high: float
    prompts: int
    predicted: float
    observed: float
    squared_error: float


@dataclass(frozen=True)
class Coverage(Row):
    """coverage.csv: `prompts` rolled out in a step, distinct ones up to it, and the share of the step's that
    were in the batch before (None at the first)."""

    step: int
    prompts: int
    distinct: int
    overlap: float | None


@dataclass(frozen=True)
class Sampled(Row):
    """times_sampled.csv: how many prompts of the pool were rolled out how many times."""

    times: int
    prompts: int


@dataclass(frozen=True)
class Total(Row):
    """runs.csv: a run as a whole.

    effective:  mean over its steps
    choosing:   share of step time that select and observe took
    accuracy:   None where it was not measured after the last step
    """

    accuracy: float | None
    rollouts: int
    tokens: int
    seconds: float
    effective: float
    distinct: int
    choosing: float


@dataclass
class Numbers:
    """All that is known of one run or of many, in the order of the runs."""

    curves: list[Point] = field(default_factory=list)
    prediction: list[Quality] = field(default_factory=list)
    confusion: list[Cell] = field(default_factory=list)
    calibration: list[Bin] = field(default_factory=list)
    coverage: list[Coverage] = field(default_factory=list)
    times_sampled: list[Sampled] = field(default_factory=list)
    runs: list[Total] = field(default_factory=list)

    def add(self, other: "Numbers") -> None:
        for each in fields(self):
            getattr(self, each.name).extend(getattr(other, each.name))

    def write(self, folder: Path) -> None:
        """A CSV file for each list that is not empty."""
        for each in fields(self):
            if rows := getattr(self, each.name):
                write_csv(folder / f"{each.name}.csv", rows)


def measure(method: str, seed: int, folder: Path) -> Numbers:
    """Everything about the finished run in this folder.

    Raises:
        DataError: it is no finished run.
        CheckpointError: its observation log is damaged.
    """
    run = (method, seed)
    records, replay = read_metrics(folder), replayed(folder)
    summary = read_summary(folder) or {}
    curve = points(run, records)
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
        runs=[_total(run, records, curve)],
    )


def points(run: tuple[str, int], records: Sequence[Mapping[str, float]]) -> list[Point]:
    """A point for each recorded step."""
    found = []
    rollouts = tokens = seconds = 0.0
    for record in records:
        rollouts = record.get("perf/total_rollouts", rollouts)
        tokens = record.get("perf/total_tokens", tokens)
        seconds += record.get("timing_s/step", 0.0) + record.get("timing_s/probe", 0.0)
        accuracy = held_out_accuracy(record)
        point = Point(
            *run,
            step=int(record["step"]),
            rollouts=int(rollouts),
            tokens=int(tokens),
            seconds=seconds,
            effective=record.get("tasksample/partial_solve_ratio"),
            accuracy=None if accuracy is None else accuracy.mean,
        )
        found.append(point)
    return found


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


def write_csv(path: Path, rows: Sequence[Any]) -> None:
    """Dataclass instances of one kind, six digits a number, None as nothing."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([each.name for each in fields(rows[0])])
        for row in rows:
            writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in astuple(row)])


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
    run: tuple[str, int], records: Sequence[Mapping[str, float]], curve: Sequence[Point]
) -> Total:
    def spent(*phases: str) -> float:
        return sum(record.get(f"timing_s/{phase}", 0.0) for record in records for phase in phases)

    last = curve[-1]
    return Total(
        *run,
        accuracy=last.accuracy,
        rollouts=last.rollouts,
        tokens=last.tokens,
        seconds=last.seconds,
        effective=float(np.mean([p.effective for p in curve if p.effective is not None])),
        distinct=int(records[-1]["coverage/distinct_prompts"]),
        choosing=spent("select", "observe") / spent("step"),
    )
