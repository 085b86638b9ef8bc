"""Advantages against a belief about the prompt's solve rate, instead of the mean of the group alone.

Before a prompt is rolled out, its solve rate p is believed to be Beta(a, b). With s right among m further responses,
the expected rate is

    (a + s) / (a + b + m) = w s / m + (1 - w) a / (a + b),    w = m / (a + b + m)

the mean of those responses, shrunk towards the predicted rate with the weight that minimises the variance of the
advantage. Each response is compared with the rate expected from the *other* responses. Its own outcome does not
move its baseline, so the policy gradient is unbiased for any belief. The derivation is in ``docs/method.md``.
"""

import numpy as np
from numpy.typing import NDArray

from dps_ray.objective.advantages import averaged, mean_of_others, sum_of_others

LEAST_ADVANTAGE = 0.05
"""A group trains if one of its advantages is as large as this. Below it the group says what the belief had said."""


def belief_advantages(
    scores: NDArray[np.float64],
    right: NDArray[np.bool_],
    a: float,
    b: float,
    *,
    full: int,
    rounds: tuple[int, ...] = (),
    low: float = 0.0,
    high: float = 1.0,
    norm_by_std: bool = True,
) -> NDArray[np.float64]:
    """The advantage of each response of a group: float64 (n,).

    Args:
        scores: (n,), rewards.
        right: (n,), whether each response is right, which is what the belief is about.
        a, b: the belief before the group was rolled out, Beta(a, b); both positive.
        full: size of a full group.
        rounds: sizes of the rounds in which the responses were asked for, in their order; empty: one round.
        low, high: score of a wrong and of a right response. The belief stands for this part of the score. What a
            score has besides, such as a bonus for the format, is compared with that of the other responses alone.
        norm_by_std: divide by the expected standard deviation of the score; at least by that of a full group with
            one right response.
    """
    rates = expected_rates(right, a, b, rounds)
    beside = scores - (high - low) * right
    differences = scores - (high - low) * rates - mean_of_others(beside, rounds, empty=low)
    if norm_by_std:
        deviations = np.maximum(np.sqrt(rates * (1.0 - rates)), full**-0.5)
        differences = differences / ((high - low) * deviations)
    return averaged(differences, scores, right)


def expected_rates(
    right: NDArray[np.bool_], a: float, b: float, rounds: tuple[int, ...] = ()
) -> NDArray[np.float64]:
    """The solve rate expected for each response from the belief and the other responses: float64 (n,).

    Responses of later rounds are left out. Whether a later round was asked for depends on this response, and so would
    the baseline.
    """
    others, count = sum_of_others(right.astype(np.float64), rounds)
    return (a + others) / (a + b + count)
