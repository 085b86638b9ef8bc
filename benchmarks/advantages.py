"""What the advantages of small groups are worth, by enumeration of all outcomes:

    python -m benchmarks.advantages

A response has advantage A. Its score function is (r - p) / (p (1 - p)) times the gradient of the solve rate p, and noise
of unit variance that has nothing to do with r. Over all prompts the gradient estimate then has

    signal = E[sum of A (r - p) u(p)]      noise = E[sum of A^2]      worth = signal^2 / noise, a rollout

u(p) says how much each prompt's gradient counts: 1 / sqrt(p (1 - p)) is what GRPO's division by the standard deviation aims
at, 1 is what Dr. GRPO does. Rates are Beta(0.38, 0.38), as of the prompts that `dps_pooled` selects in the comparison.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np

from dps_ray.objective.advantages import group_advantages
from dps_ray.objective.belief_baseline import LEAST_ADVANTAGE, belief_advantages

SHAPE = 0.38
FULL = 8
Advantages = Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
# Rounds that stop when a group is mixed. "2, 4, 8" has groups of these sizes, as many rollouts in each.
PLANS: dict[str, list[tuple[int, ...]]] = {
    "8": [(8,)],
    "4": [(4,)],
    "2": [(2,)],
    "rounds 4, 4": [(4, 4)],
    "rounds 2, 2, 4": [(2, 2, 4)],
    "2, 4, 8 mixed": [*[(2,)] * 4, *[(4,)] * 2, (8,)],
}


def rates(points: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Rates and their weights: Gauss-Legendre in an angle, which takes the ends of the Beta distribution."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    angle = (nodes + 1) * np.pi / 4
    p = np.sin(angle) ** 2
    weights = weights * (p * (1 - p)) ** (SHAPE - 0.5)
    return p, weights / weights.sum()


def groups(rounds: tuple[int, ...]) -> Iterator[tuple[np.ndarray, tuple[int, ...]]]:
    """Every group that rounds can give when they stop once it is mixed, and the rounds it had."""
    ends = np.cumsum(rounds)
    for sequence in product([0.0, 1.0], repeat=int(ends[-1])):
        right = np.array(sequence)
        mixed = [count for count, end in enumerate(ends, 1) if 0 < right[:end].sum() < end]
        done = mixed[0] if mixed else len(rounds)
        if not right[ends[done - 1] :].any():
            yield right[: ends[done - 1]], rounds[:done]


def of_group(factor: Callable[[int], float], norm_by_std: bool) -> Advantages:
    """Advantages against the group's mean, times a factor for the group's size."""

    def advantages(right: np.ndarray, rounds: tuple[int, ...]) -> np.ndarray:
        if right.min() == right.max():
            return np.zeros_like(right)
        return factor(len(right)) * group_advantages(right, norm_by_std=norm_by_std)

    return advantages


def of_belief(norm_by_std: bool) -> Advantages:
    """Advantages against the belief that the rates are drawn from."""

    def advantages(right: np.ndarray, rounds: tuple[int, ...]) -> np.ndarray:
        found = belief_advantages(
            right, right == 1, SHAPE, SHAPE, full=FULL, rounds=rounds, norm_by_std=norm_by_std
        )
        return found if np.abs(found).max() >= LEAST_ADVANTAGE else np.zeros_like(found)

    return advantages


def worth(plan: list[tuple[int, ...]], advantages: Advantages, power: float) -> float:
    """signal^2 / noise for each rollout. `power`: u(p) = (p (1 - p)) ** power."""
    p, weights = rates()
    value = weights * (p * (1 - p)) ** power
    signal = noise = rollouts = 0.0
    for rounds in plan:
        for right, had in groups(rounds):
            s, n = right.sum(), len(right)
            chance = p**s * (1 - p) ** (n - s)
            found = advantages(right, had)
            signal += float((value * chance * (found @ right - found.sum() * p)).sum())
            noise += float((weights * chance).sum() * (found**2).sum())
            rollouts += float((weights * chance).sum() * n)
    return signal**2 / noise / rollouts


def c4(n: int) -> float:
    """E[s] / sigma of n normal values."""
    return math.sqrt(2 / (n - 1)) * math.gamma(n / 2) / math.gamma((n - 1) / 2)


ROWS: list[tuple[str, Advantages, float]] = [
    ("(r - mean) / s", of_group(lambda n: 1.0, True), -0.5),
    ("... c4(n)", of_group(c4, True), -0.5),
    ("... / c4(n)", of_group(lambda n: 1 / c4(n), True), -0.5),
    ("... sqrt(n / (n - 1))", of_group(lambda n: math.sqrt(n / (n - 1)), True), -0.5),
    ("... n / (n - 1)", of_group(lambda n: n / (n - 1), True), -0.5),
    ("belief", of_belief(True), -0.5),
    ("r - mean", of_group(lambda n: 1.0, False), 0.0),
    ("... sqrt(n / (n - 1))", of_group(lambda n: math.sqrt(n / (n - 1)), False), 0.0),
    ("... n / (n - 1)", of_group(lambda n: n / (n - 1), False), 0.0),
    ("belief", of_belief(False), 0.0),
]


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    print("| advantage | " + " | ".join(PLANS) + " |")
    print("|---|" + "--:|" * len(PLANS))
    for name, advantages, power in ROWS:
        values = [worth(plan, advantages, power) for plan in PLANS.values()]
        print(f"| {name} | " + " | ".join(f"{value:.4f}" for value in values) + " |")


if __name__ == "__main__":
    main()
