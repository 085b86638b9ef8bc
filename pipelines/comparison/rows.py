"""What is known of the runs of a comparison: each class below is the rows of one CSV file."""

import csv
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

THIRDS = ("early", "middle", "late")
STATES = ("unsolved", "partial", "solved")


@dataclass(frozen=True)
class Row:
    """What every row begins with: the entry's name, and the seed of the run."""

    method: str
    seed: int


@dataclass(frozen=True)
class Point(Row):
    """curves.csv: a run after `step`; rollouts, tokens and seconds since its beginning.

    seconds:        of steps and probes; evaluations measure, and are left out
    effective:      share of partial groups among all that the step rolled out; None at step 0
    accuracy:       on held-out prompts; None where it was not measured
    engine_seconds: in which engines generated; None without a timeline
    """

    step: int
    rollouts: int
    tokens: int
    seconds: float
    effective: float | None
    accuracy: float | None
    engine_seconds: float | None = None


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

    effective:   mean over its steps
    choosing:    share of step time that select and observe took
    accuracy:    None where it was not measured after the last step
    group_size:  mean responses of a group
    per_mixed:   responses for each partial group that was found
    per_trained: responses for each group that the learner was given; more than `per_mixed` where partial groups are left over
    wasted:      share of responses in groups that the learner was not given

    The last four are of training, without probes. None of runs that did not record it, or without such groups.
    """

    accuracy: float | None
    rollouts: int
    tokens: int
    seconds: float
    effective: float
    distinct: int
    choosing: float
    group_size: float | None = None
    per_mixed: float | None = None
    per_trained: float | None = None
    wasted: float | None = None


@dataclass(frozen=True)
class AtAccuracy:
    """equal_accuracy.csv: what a method took to reach the accuracy in which a reference, a Dynamic Sampling, ended.

    cost:         rollouts or tokens, the unit of what follows
    target:       the reference's accuracy in the end, mean over seeds
    taken:        at which the method's mean curve reaches it; None where it does not
    share:        that, as a share of what the reference's own curve took
    share_error:  standard error over the seeds of both, by the jackknife; None of the reference itself, or where it is not known
    reached:      how many of the seeds reach the target by themselves
    median, least, most: at which they do; None where so many do not
    """

    method: str
    reference: str
    cost: str
    target: float
    taken: float | None
    share: float | None
    share_error: float | None
    seeds: int
    reached: int
    median: float | None
    least: float | None
    most: float | None


@dataclass(frozen=True)
class AtRollouts:
    """equal_rollouts.csv: a method's accuracy after a share of all rollouts of a reference, a Dynamic Sampling.

    accuracy: by the mean curve over seeds; None where the method ended before
    error:    its standard error over seeds
    """

    method: str
    reference: str
    share: float
    rollouts: float
    accuracy: float | None
    error: float | None


@dataclass
class Numbers:
    """All that is known of one run or of many, in the order of the runs. What compares runs is known of many alone."""

    curves: list[Point] = field(default_factory=list)
    prediction: list[Quality] = field(default_factory=list)
    confusion: list[Cell] = field(default_factory=list)
    calibration: list[Bin] = field(default_factory=list)
    coverage: list[Coverage] = field(default_factory=list)
    times_sampled: list[Sampled] = field(default_factory=list)
    runs: list[Total] = field(default_factory=list)
    equal_accuracy: list[AtAccuracy] = field(default_factory=list)
    equal_rollouts: list[AtRollouts] = field(default_factory=list)

    def add(self, other: "Numbers") -> None:
        for each in fields(self):
            getattr(self, each.name).extend(getattr(other, each.name))

    def write(self, folder: Path) -> None:
        """A CSV file for each list that is not empty."""
        for each in fields(self):
            if rows := getattr(self, each.name):
                write_csv(folder / f"{each.name}.csv", rows)


def write_csv(path: Path, rows: Sequence[Any]) -> None:
    """Dataclass instances of one kind, six digits a number, None as nothing."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([each.name for each in fields(rows[0])])
        for row in rows:
            writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in astuple(row)])
