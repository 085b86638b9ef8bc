"""Solve states of rewards without right and wrong, such as the share of tests that pass: the rules of `states.rule`.

A group is worth its rollouts when its rewards differ. So *partial* means that they differ by enough to learn from; a
group whose rewards are about equal is solved or unsolved by how large they are.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dps_ray.beliefs.settings import StateSettings
from dps_ray.beliefs.states import count_successes


def successes(scores: ArrayLike, accuracies: ArrayLike, rule: StateSettings) -> int:
    """How many responses of a group count as right, from 0 to k; its state follows (`states.states_of`).

    scores, accuracies: float (k,), of the k responses of the group.

    By the rule "right" those with accuracy 1. By the two others, which look at scores alone, all or none, and in a
    partial group that share of them which the mean score is of the way from `low` to `high`, rounded, but one
    at least and not all. So methods that learn from counts see the mean of the reward, and the counts never
    contradict the state.

    Raises ValueError for an empty group, a score that is not finite, and an accuracy outside [0, 1].
    """
    if rule.rule == "right":
        return int(count_successes([accuracies])[0][0])
    given = np.asarray(scores, dtype=np.float64)
    if given.ndim != 1 or not len(given) or not np.isfinite(given).all():
        raise ValueError(f"a group's scores must be finite numbers, one at least, not {given}")
    mean, size = float(given.mean()), len(given)
    if not _is_partial(given, rule):
        return size if mean >= (rule.low + rule.high) / 2 else 0
    share = (mean - rule.low) / (rule.high - rule.low)
    return int(np.clip(np.rint(share * size), 1, size - 1))


def _is_partial(scores: NDArray[np.float64], rule: StateSettings) -> bool:
    if scores.min() == scores.max():
        return False
    if rule.rule == "variation":
        return bool(scores.std(ddof=1) > rule.least_std)
    return bool(scores.max() > rule.low and scores.min() < rule.high)
