"""Accuracy as a function of what a run has spent: its evaluations, and a monotone fit to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipelines.monitoring.held_out import held_out_accuracy
from pipelines.monitoring.metrics import TOTAL_ROLLOUTS, TOTAL_TOKENS
from pipelines.monitoring.run_log import read_metrics
from pipelines.monitoring.timeline import Span, read_timeline

_ROUNDING = 1e-9


class Spent(NamedTuple):
    """What a run had spent after a step, probes included, and its accuracy then.

    seconds:        of steps and probes; evaluations measure, and are left out
    engine_seconds: in which engines generated; None without a timeline
    accuracy:       on held-out prompts; None where it was not measured
    """

    step: int
    rollouts: int
    tokens: int
    seconds: float
    engine_seconds: float | None
    accuracy: float | None


def spending_of(folder: Path) -> list[Spent]:
    """What the run in this folder had spent after each recorded step.

    Raises:
        DataError: the folder holds no metrics, or they are damaged.
    """
    return spending(read_metrics(folder), read_timeline(folder))


def spending(records: Sequence[Mapping[str, float]], spans: Iterable[Span] = ()) -> list[Spent]:
    """What a run had spent after each of these records."""
    generated: dict[int, float] = {}
    for span in spans:
        if span.pool.startswith("rollout/") and span.name in ("generate", "probe"):
            generated[span.step] = generated.get(span.step, 0.0) + span.ended - span.began
    engines = accumulate(generated.get(int(record["step"]), 0.0) for record in records)
    found = []
    rollouts = tokens = seconds = 0.0
    for record, engine_seconds in zip(records, engines, strict=True):
        rollouts = record.get(TOTAL_ROLLOUTS, rollouts)
        tokens = record.get(TOTAL_TOKENS, tokens)
        seconds += record.get("timing_s/step", 0.0) + record.get("timing_s/probe", 0.0)
        accuracy = held_out_accuracy(record)
        spent = Spent(
            step=int(record["step"]),
            rollouts=int(rollouts),
            tokens=int(tokens),
            seconds=seconds,
            engine_seconds=engine_seconds if generated else None,
            accuracy=None if accuracy is None else accuracy.mean,
        )
        found.append(spent)
    return found


class Evaluated(Protocol):
    """A point of a run, with what it had spent by then as attributes."""

    @property
    def step(self) -> int: ...

    @property
    def accuracy(self) -> float | None: ...


class Curve(NamedTuple):
    """A monotone fit of accuracy to cost, linear between its points.

    costs:      (points,), ascending
    accuracies: (points,), strictly ascending
    end:        cost of the last evaluation, up to which the fit is known
    """

    costs: NDArray[np.float64]
    accuracies: NDArray[np.float64]
    end: float

    def cost_to(self, target: float) -> float | None:
        """Returns the cost at which the fit reaches an accuracy; None if it stays below."""
        if self.accuracies[-1] < target - _ROUNDING:
            return None
        return float(np.interp(target, self.accuracies, self.costs))

    def at(self, cost: float) -> float | None:
        """Returns the accuracy at a cost; None after the last evaluation."""
        if cost > self.end * (1 + _ROUNDING):
            return None
        return float(np.interp(cost, self.costs, self.accuracies))


def fitted(costs: ArrayLike, accuracies: ArrayLike) -> Curve:
    """Returns the centered isotonic regression of accuracies on costs (Oron and Flournoy 2017).

    Noisy accuracies go up and down. Their first value above a target is a lucky one, so the first crossing comes too early.
    Isotonic regression replaces each stretch of falling values by its mean. The centered form has one point for each stretch,
    at its mean cost, so that the fit rises in between and crosses each accuracy once.

    Args:
        costs: (evaluations,), ascending, at least one.
        accuracies: (evaluations,).
    """
    from scipy.optimize import isotonic_regression  # here: importing it takes long

    x, y = np.asarray(costs, dtype=np.float64), np.asarray(accuracies, dtype=np.float64)
    values, stretch = np.unique(isotonic_regression(y).x, return_inverse=True)
    return Curve(np.bincount(stretch, x) / np.bincount(stretch), values, float(x[-1]))


def curve_of(seeds: Sequence[Sequence[Evaluated]], cost: str) -> Curve:
    """The fit to the mean curve over seeds. `cost`: the attribute with what was spent, such as "rollouts"."""
    return fitted(*zip(*mean_points(seeds, cost), strict=True))


def mean_points(
    seeds: Sequence[Sequence[Evaluated]], cost: str = "rollouts"
) -> list[tuple[float, float]]:
    """Cost and accuracy, means over the seeds, at each step at which all of them were evaluated."""
    steps: dict[int, list[tuple[float, float]]] = {}
    for points in seeds:
        for point in points:
            if point.accuracy is not None:
                steps.setdefault(point.step, []).append((getattr(point, cost), point.accuracy))
    return [
        (fmean(x for x, _ in at), fmean(y for _, y in at))
        for _, at in sorted(steps.items())
        if len(at) == len(seeds)
    ]
