"""The table of a comparison: each method's mean and standard error over seeds, and what it took to reach
Dynamic Sampling."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipelines.comparison.rows import AtAccuracy, Total

NUMBERS = (
    "accuracy",
    "rollouts",
    "tokens",
    "seconds",
    "effective",
    "distinct",
    "choosing",
    "group_size",
    "per_mixed",
    "per_trained",
    "wasted",
)
TO_TARGET = ("to_target", "share", "share_error", "tokens_to_target", "tokens_share", "reached")


class Mean(NamedTuple):
    """Over seeds, with its standard error; None where a seed has none, or there is but one."""

    mean: float | None
    error: float | None


class Line(NamedTuple):
    """A method.

    numbers:   by the names in `NUMBERS`, which are those of `Total`
    to_target: rollouts until the mean curve reaches the accuracy of the strongest Dynamic Sampling; None where it does not
    share:     that, as a share of what Dynamic Sampling took itself, with its standard error
    tokens_to_target, tokens_share: likewise, in tokens
    reached:   how many seeds reached the target by themselves
    """

    method: str
    seeds: int
    numbers: dict[str, Mean]
    to_target: float | None = None
    share: float | None = None
    share_error: float | None = None
    tokens_to_target: float | None = None
    tokens_share: float | None = None
    reached: int = 0


def table(
    totals: Sequence[Total], equal: Sequence[AtAccuracy], reference: str | None
) -> list[Line]:
    """A line a method.

    Args:
        equal: what methods took to the accuracy of the reference, and maybe of others.
        reference: whose accuracy is the target; without it nothing is reached.
    """
    to_reference = {(row.method, row.cost): row for row in equal if row.reference == reference}
    lines = []
    for method in dict.fromkeys(total.method for total in totals):
        mine = [t for t in totals if t.method == method]
        numbers = {name: mean([getattr(t, name) for t in mine]) for name in NUMBERS}
        line = Line(method, len(mine), numbers)
        if found := to_reference.get((method, "rollouts")):
            line = line._replace(
                to_target=found.taken,
                share=found.share,
                share_error=found.share_error,
                reached=found.reached,
            )
        if found := to_reference.get((method, "tokens")):
            line = line._replace(tokens_to_target=found.taken, tokens_share=found.share)
        lines.append(line)
    return lines


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
        writer.writerow(["method", "seeds", *names, *TO_TARGET])
        for line in lines:
            numbers = [value for name in NUMBERS for value in line.numbers[name]]
            row = [line.method, line.seeds, *numbers, *(getattr(line, name) for name in TO_TARGET)]
            writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in row])
