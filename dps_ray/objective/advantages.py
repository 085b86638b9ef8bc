"""Advantages of responses, from their rewards: against their group, the others of their group, or the batch.

If all rewards of a group are equal, all its advantages against the group are zero. Such a group carries no gradient, and
the pipeline does not send it to the learner. For advantages against a predicted solve rate see
`dps_ray.objective.belief_baseline`.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def group_advantages(
    scores: NDArray[np.float64],
    *,
    norm_by_std: bool = True,
    full: int | None = None,
    eps: float = 1e-6,
) -> NDArray[np.float64]:
    """The advantage of each response within its group: ``(r - mean) / (std + eps)`` (GRPO, arXiv 2402.03300, eq. 3).

    Args:
        scores: (..., k) rewards; the last axis is the group.
        norm_by_std: whether to divide by the group's standard deviation (GRPO). False returns the
            centred reward, which gives no extra weight to groups that are nearly all right or
            nearly all wrong (Dr. GRPO, arXiv 2503.20783).
        full: size of a full group, where a batch has groups of several sizes. With `norm_by_std` smaller groups
            are then scaled by `size_correction`.
        eps: added to the standard deviation.

    Returns:
        (..., k) float64. The standard deviation is that of a sample (divisor n - 1), as in verl's
        ``compute_grpo_outcome_advantage``.
    """
    scores = np.asarray(scores, dtype=np.float64)
    centred: NDArray[np.float64] = scores - scores.mean(axis=-1, keepdims=True)
    if not norm_by_std:
        return centred
    size = scores.shape[-1]
    if size == 1:
        return np.zeros_like(scores)
    scaled: NDArray[np.float64] = centred / (scores.std(axis=-1, ddof=1, keepdims=True) + eps)
    return scaled if full in (None, size) else scaled * size_correction(size, full)


def size_correction(size: int, full: int) -> float:
    """The factor that makes advantages of a group of `size`, divided by its standard deviation, comparable with those
    of a group of `full`: both from 2.

    The mean square of such advantages is (n - 1) / n in a group of n, so a response of a small group would weigh less.
    The factor sqrt(n / (n - 1)), relative to that of a full group, makes it the same in all groups.
    ``docs/method.md`` compares it with other factors.
    """
    return math.sqrt(size / (size - 1) * (full - 1) / full)


def leave_one_out_advantages(
    scores: NDArray[np.float64], rounds: tuple[int, ...] = ()
) -> NDArray[np.float64]:
    """The reward of each response minus the mean of the others in its group (RLOO, arXiv 2402.14740): (n,) float64.

    Without rounds it is n / (n - 1) times the centred reward. With rounds the others are those up to the response's own
    round, as in `dps_ray.objective.belief_baseline`: whether a later round exists depends on the response, so its
    responses would bias the baseline. Responses with equal rewards get the mean of their advantages.

    Args:
        scores: (n,) rewards.
        rounds: sizes of the rounds in which the responses were asked for, in their order; empty: one round.
    """
    return averaged(scores - mean_of_others(scores, rounds), scores)


def over_batch(
    differences: Sequence[NDArray[np.float64]],
    *,
    centre: bool,
    divide: bool,
    eps: float = 1e-6,
) -> list[NDArray[np.float64]]:
    """The advantages of several groups relative to all their responses: ``d / (rms(d) + eps)``, for each group.

    The root mean square has the divisor N - 1 for N responses. It is the sample deviation wherever the mean is 0, as it is
    after centring, and with the group's mean or that of the others as baseline. REINFORCE++ (arXiv 2501.03262) centres and
    divides the rewards themselves, and in its form with a baseline divides rewards from which their group's mean was taken.
    Statistics are over responses; OpenRLHF and verl take them over tokens, so that long responses count more.

    Args:
        differences: for each group (n,), its rewards or rewards minus a baseline.
        centre: whether to subtract the mean of all first.
        divide: whether to divide.
    """
    together = np.concatenate(differences)
    mean = together.mean() if centre else 0.0
    deviation = 1.0
    if divide:
        squares = np.square(together - mean).sum()
        deviation = math.sqrt(squares / max(len(together) - 1, 1)) + eps
    return [(each - mean) / deviation for each in differences]


def mean_of_others(
    values: NDArray[np.float64], rounds: tuple[int, ...] = (), empty: float = 0.0
) -> NDArray[np.float64]:
    """The mean value of the other responses in the same round and before: float64 (n,). `empty`: the mean of none."""
    others, count = sum_of_others(values, rounds)
    return np.where(count > 0, others / np.maximum(count, 1), empty)


def sum_of_others(
    values: NDArray[np.float64], rounds: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Of each response, the sum over the others up to its round, and how many these are: two (n,).

    Raises:
        ValueError: the rounds do not add up to the group.
    """
    sizes = rounds or (len(values),)
    if sum(sizes) != len(values):
        raise ValueError(f"rounds of {sizes} responses were given for a group of {len(values)}")
    ends = np.repeat(np.cumsum(sizes), sizes)
    sums: NDArray[np.float64] = np.cumsum(values)[ends - 1] - values
    return sums, ends - 1


def averaged(
    advantages: NDArray[np.float64], *outcomes: NDArray[np.float64] | NDArray[np.bool_]
) -> NDArray[np.float64]:
    """The mean advantage of the responses with the same outcome, for each response: float64 (n,).

    With rounds they differ by their places alone, which chance gave them, so that the mean has the same expectation and
    a smaller variance (Rao-Blackwell).

    Args:
        outcomes: (n,) each; what makes two outcomes the same.
    """
    _, kinds = np.unique(np.stack(outcomes), axis=1, return_inverse=True)
    kinds = kinds.reshape(-1)
    means: NDArray[np.float64] = np.bincount(kinds, advantages) / np.bincount(kinds)
    return means[kinds]


def carries_gradient(scores: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether each group has rewards that differ: (..., k) -> (...)."""
    scores = np.asarray(scores)
    return np.asarray(scores.max(axis=-1) > scores.min(axis=-1))
