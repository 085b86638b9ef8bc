"""The table of a comparison: each method's mean and standard error over seeds, and what it took to reach
Dynamic Sampling."""

import csv
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipelines.comparison.measures import Point, Total
from pipelines.comparison.plan import REFERENCE

NUMBERS = ("accuracy", "rollouts", "tokens", "seconds", "effective", "distinct", "choosing")


class Mean(NamedTuple):
    """Over seeds, with its standard error; None where a seed has none, or there is but one."""

    mean: float | None
    error: float | None


class Line(NamedTuple):
    """A method.

    numbers:   by the names in `NUMBERS`, which are those of `Total`
    to_target: rollouts until the mean accuracy over seeds reached the target, linear between evaluations;
        None where it did not
    share:     that, as a share of the same of `ds_10`
    reached:   how many seeds reached the target by themselves
    """

    method: str
    seeds: int
    numbers: dict[str, Mean]
    to_target: float | None
    share: float | None
    reached: int


def table(totals: Sequence[Total], curves: Sequence[Point]) -> list[Line]:
    """A line a method. The target is the mean accuracy of `ds_10` in the end; without it nothing is reached."""
    methods = list(dict.fromkeys(total.method for total in totals))
    target = mean([t.accuracy for t in totals if t.method == REFERENCE]).mean
    of = {m: [p for p in curves if p.method == m] for m in methods}
    needed = {m: rollouts_to(target, mean_curve(of[m])) for m in methods}
    base = needed.get(REFERENCE)
    lines = []
    for method in methods:
        mine = [t for t in totals if t.method == method]
        each = [[p for p in of[method] if p.seed == t.seed] for t in mine]
        to_target = needed[method]
        line = Line(
            method,
            seeds=len(mine),
            numbers={name: mean([getattr(t, name) for t in mine]) for name in NUMBERS},
            to_target=to_target,
            share=to_target / base if to_target is not None and base else None,
            reached=sum(rollouts_to(target, mean_curve(curve)) is not None for curve in each),
        )
        lines.append(line)
    return lines


def mean_curve(curve: Sequence[Point]) -> list[tuple[float, float]]:
    """Rollouts and accuracy, means over the seeds, at each evaluated step."""
    steps: dict[int, list[tuple[int, float]]] = {}
    for point in curve:
        if point.accuracy is not None:
            steps.setdefault(point.step, []).append((point.rollouts, point.accuracy))
    means = [np.mean(at, axis=0) for _, at in sorted(steps.items())]
    return [(float(rollouts), float(accuracy)) for rollouts, accuracy in means]


def rollouts_to(target: float | None, curve: Sequence[tuple[float, float]]) -> float | None:
    """Rollouts at which (rollouts, accuracy) first reaches the target, linear in between; None if never."""
    if target is None or not curve:
        return None
    if curve[0][1] >= target:
        return curve[0][0]
    for (x0, y0), (x1, y1) in pairwise(curve):
        if y1 >= target:
            return x0 + (x1 - x0) * (target - y0) / (y1 - y0)
    return None


def mean(values: Sequence[float | None]) -> Mean:
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return Mean(None, None)
    error = float(np.std(known, ddof=1) / np.sqrt(len(known))) if len(known) > 1 else None
    return Mean(float(np.mean(known)), error)


def write_table(path: Path, lines: Sequence[Line]) -> None:
    """`<number>` and `<number>_error`, six digits, None as nothing."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = [f"{name}{end}" for name in NUMBERS for end in ("", "_error")]
        writer.writerow(["method", "seeds", *names, "to_target", "share", "reached"])
        for line in lines:
            numbers = [value for name in NUMBERS for value in line.numbers[name]]
            row = [line.method, line.seeds, *numbers, line.to_target, line.share, line.reached]
            writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in row])
