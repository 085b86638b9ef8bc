"""What methods take to reach Dynamic Sampling's accuracy, and how accurate they are for a share of its rollouts.

All is read from monotone fits to accuracy over cost (`pipelines/monitoring/accuracy_curve.py`), Dynamic Sampling's own
included: what it took is where its fit reaches the accuracy in which it ended, which may be before its last step.
"""

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import numpy as np

from pipelines.comparison.rows import AtAccuracy, AtRollouts, Point
from pipelines.monitoring.accuracy_curve import curve_of, mean_points

COSTS = ("rollouts", "tokens")
SHARES = (0.25, 0.3, 0.5)  # of Dynamic Sampling's rollouts

Seeds = Sequence[Sequence[Point]]  # the points of each seed


class Shared(NamedTuple):
    """What a method took to the accuracy in which another ended, and what that took itself; None if never there."""

    target: float
    taken: float | None
    base: float | None

    @property
    def share(self) -> float | None:
        return self.taken / self.base if self.taken is not None and self.base else None


def at_equal_accuracy(curves: Sequence[Point], references: Sequence[str]) -> list[AtAccuracy]:
    """Every method against each of these references, by rollouts and by tokens."""
    seeds = seeds_by_method(curves)
    return [
        _at_accuracy(method, reference, cost, seeds)
        for reference in references
        if reference in seeds
        for method in seeds
        for cost in COSTS
    ]


def _at_accuracy(
    method: str, reference: str, cost: str, seeds: dict[str, list[list[Point]]]
) -> AtAccuracy:
    ours, theirs = seeds[method], seeds[reference]
    found = shared(ours, theirs, cost)
    each = [curve_of([one], cost).cost_to(found.target) for one in ours]
    reached = [taken for taken in each if taken is not None]
    middle = median(np.inf if taken is None else taken for taken in each)
    return AtAccuracy(
        method,
        reference,
        cost,
        target=found.target,
        taken=found.taken,
        share=found.share,
        share_error=None if method == reference else jackknife(ours, theirs, cost),
        seeds=len(each),
        reached=len(reached),
        median=float(middle) if np.isfinite(middle) else None,
        least=min(reached) if reached else None,
        most=max(reached) if len(reached) == len(each) else None,
    )


def at_equal_rollouts(curves: Sequence[Point], references: Sequence[str]) -> list[AtRollouts]:
    """The accuracy of every method at `SHARES` of all rollouts of each of these references."""
    seeds = seeds_by_method(curves)
    rows = []
    for reference in references:
        if reference not in seeds:
            continue
        whole = curve_of(seeds[reference], "rollouts").end
        for method, each in seeds.items():
            for share in SHARES:
                accuracies = [curve_of([one], "rollouts").at(share * whole) for one in each]
                known = [accuracy for accuracy in accuracies if accuracy is not None]
                error = None
                if len(known) == len(each) > 1:
                    error = float(np.std(known, ddof=1) / np.sqrt(len(known)))
                accuracy = curve_of(each, "rollouts").at(share * whole)
                rows.append(AtRollouts(method, reference, share, share * whole, accuracy, error))
    return rows


def strongest(curves: Sequence[Point], references: Sequence[str]) -> str | None:
    """The reference with the highest accuracy in the end; None if there are none."""
    seeds = seeds_by_method(curves)
    known = [reference for reference in references if reference in seeds]
    return max(known, key=lambda name: in_the_end(seeds[name]), default=None)


def shared(ours: Seeds, theirs: Seeds, cost: str) -> Shared:
    """By the mean curves over seeds of a method and of a reference."""
    target = in_the_end(theirs)
    taken, base = (curve_of(each, cost).cost_to(target) for each in (ours, theirs))
    return Shared(target, taken, base)


def jackknife(ours: Seeds, theirs: Seeds, cost: str) -> float | None:
    """Returns the standard error of the share over seeds, by leaving out one of either method at a time.

    None if a method has one seed, or does not reach the target without one of them.
    """
    if min(len(ours), len(theirs)) < 2:
        return None
    variance = 0.0
    for shares in (
        [shared(without, theirs, cost).share for without in _without_one(ours)],
        [shared(ours, without, cost).share for without in _without_one(theirs)],
    ):
        known = [share for share in shares if share is not None]
        if len(known) < len(shares):
            return None
        variance += (len(known) - 1) * float(np.var(known))
    return float(np.sqrt(variance))


def _without_one(seeds: Seeds) -> list[Seeds]:
    return [[*seeds[:i], *seeds[i + 1 :]] for i in range(len(seeds))]


def in_the_end(seeds: Seeds) -> float:
    """Mean accuracy over seeds at the last step at which all of them were evaluated."""
    return mean_points(seeds)[-1][1]


def seeds_by_method(curves: Sequence[Point]) -> dict[str, list[list[Point]]]:
    """The points of each seed, by method; without methods that have no step at which all seeds were evaluated."""
    found: dict[str, dict[int, list[Point]]] = {}
    for point in curves:
        found.setdefault(point.method, {}).setdefault(point.seed, []).append(point)
    seeds = {method: list(by_seed.values()) for method, by_seed in found.items()}
    return {method: each for method, each in seeds.items() if mean_points(each)}
