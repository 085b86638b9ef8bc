"""Accuracy on test prompts: mean@n and pass@m of each prompt, and their means with confidence intervals.

    accuracies (p, n) of a test set ──measures──> {"mean@n": (p,), "pass@m": (p,), ...} ──estimate──> Estimate

There are p prompts with n responses each. All functions are pure and deterministic.
"""

from collections.abc import Sequence
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_LEVEL = 0.95
_RESAMPLES = 2000
_AT_ONCE = 2**22  # random numbers drawn at a time


class Estimate(NamedTuple):
    """A mean over prompts, or over the means of several test sets, with the ends of its 95% bootstrap interval."""

    value: float
    low: float
    high: float


def measures(accuracies: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The measures of each prompt of a test set: arrays (p,), by name.

    accuracies: (p, n) in [0, 1], of n responses to each of p prompts. A response is right if its accuracy is
        1; partial credit counts for mean@n only.

    `mean@n` is the mean accuracy ("avg@n" in papers). `pass@m`, for each m of `draws(n)`, is the probability that
    at least one of m responses is right.
    """
    n = accuracies.shape[1]
    successes = (accuracies == 1).sum(axis=1)
    return {
        f"mean@{n}": accuracies.mean(axis=1),
        **{f"pass@{m}": pass_at(successes, n, m) for m in draws(n)},
    }


def draws(n: int) -> list[int]:
    """The values of m for which pass@m is computed from n responses: the powers of two below n, and n."""
    return [*(2**i for i in range((n - 1).bit_length())), n]


def pass_at(successes: NDArray[np.int64], n: int, m: int) -> NDArray[np.float64]:
    """The unbiased estimate, from n responses, of the probability that at least one of m is right: float64 (p,).

        1 - C(n - c, m) / C(n, m)      c of the n were right; Chen et al. 2021, arXiv 2107.03374, equation 1

    This is the fraction of all subsets of m responses that contain a right one. verl's `best@m/mean` draws with
    replacement, so it is smaller.

    successes: (p,) the number c of right responses to each prompt, from 0 to n.

    Raises:
        ValueError: m is not from 1 to n.
    """
    if not 1 <= m <= n:
        raise ValueError(f"pass@{m} needs m from 1 to the {n} responses there are")
    of_successes = np.array([1 - comb(n - c, m) / comb(n, m) for c in range(n + 1)])
    return of_successes[successes]


def estimate(sets: Sequence[NDArray[np.float64]]) -> Estimate:
    """The mean over test sets of each set's mean over its prompts, with its interval.

    sets: for each test set one value per prompt, (p,); no set is empty.

    The interval is a percentile bootstrap that resamples prompts within each set. It covers both the choice of the
    prompts and the randomness of their responses. Its width is zero if all prompts of each set have the same value.
    """
    rng = np.random.default_rng(0)
    means = np.mean([_resampled_means(values, rng) for values in sets], axis=0)
    low, high = np.quantile(means, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Estimate(float(np.mean([values.mean() for values in sets])), float(low), float(high))


def _resampled_means(values: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """The means of bootstrap resamples of the values: (resamples,)."""
    # Only the count of each distinct value is drawn. Right and wrong answers give at most n + 1 distinct values;
    # with partial credit there may be as many as prompts.
    distinct, counts = np.unique(values, return_counts=True)
    size = max(1, _AT_ONCE // len(distinct))
    sums = [
        rng.multinomial(len(values), counts / len(values), size=min(size, _RESAMPLES - done))
        @ distinct
        for done in range(0, _RESAMPLES, size)
    ]
    return np.concatenate(sums) / len(values)
