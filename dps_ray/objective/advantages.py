"""Advantages of a group's responses, from their rewards (GRPO, arXiv 2402.03300, eq. 3).

If all rewards of a group are equal, all its advantages are zero. Such a group carries no gradient, and the
pipeline does not send it to the learner. For advantages against a predicted solve rate see
`dps_ray.objective.belief_baseline`.
"""

import math

import numpy as np
from numpy.typing import NDArray


def group_advantages(
    scores: NDArray[np.float64],
    *,
    norm_by_std: bool = True,
    full: int | None = None,
    eps: float = 1e-6,
) -> NDArray[np.float64]:
    """The advantage of each response within its group: ``(r - mean) / (std + eps)``.

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


def carries_gradient(scores: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether each group has rewards that differ: (..., k) -> (...)."""
    scores = np.asarray(scores)
    return np.asarray(scores.max(axis=-1) > scores.min(axis=-1))
