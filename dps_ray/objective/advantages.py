"""From the rewards of a group to the advantages of its responses (GRPO, arXiv 2402.03300, eq. 3).

A group whose rewards are all equal has advantage zero throughout: it carries no gradient, and the
pipeline does not send it to the learner.
"""

import numpy as np
from numpy.typing import NDArray


def group_advantages(
    scores: NDArray[np.float64], *, norm_by_std: bool = True, eps: float = 1e-6
) -> NDArray[np.float64]:
    """Advantage of each response within its group: ``(r - mean) / (std + eps)``.

    Args:
        scores: (..., k) rewards, a group along the last axis.
        norm_by_std: divide by the group's standard deviation (GRPO). False leaves the centred
            reward, which does not favour groups that are nearly all right or wrong
            (Dr. GRPO, arXiv 2503.20783).
        eps: added to the standard deviation.

    Returns:
        (..., k) float64. The deviation is the sample's (n - 1), as in verl's
        ``compute_grpo_outcome_advantage``.
    """
    scores = np.asarray(scores, dtype=np.float64)
    centred = scores - scores.mean(axis=-1, keepdims=True)
    if not norm_by_std:
        return centred
    if scores.shape[-1] == 1:
        return np.zeros_like(scores)
    return centred / (scores.std(axis=-1, ddof=1, keepdims=True) + eps)


def carries_gradient(scores: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which groups have rewards that differ: (..., k) -> (...)."""
    scores = np.asarray(scores)
    return np.asarray(scores.max(axis=-1) > scores.min(axis=-1))
