"""Rounds that follow from the belief: the plan with the most expected signal for its expected cost. Pure functions.

The signal of a group with s right of n responses is the length of its part of the gradient over the noise of that part:

    signal(s, n) = 2 sqrt(r (1 - r)) / (1 + NOISE / n) = 2 sqrt(s (n - s)) / (n + NOISE),    r = s / n

2 sqrt(r (1 - r)) is the mean size of the group's normalised advantages. NOISE is the variance of the gradient between responses
to one prompt over that between prompts: more responses lower only the first. A plan says for each s and n how many responses
come next, if any. It pays for each response, and `ROUND` of one for each further round, as the engines wait a little for it.
The best plan has the largest

    E[signal] / E[responses + ROUND (rounds - 1)],    the rate p ~ Beta(a, b)

so a group stops when going on would earn less for its cost than another prompt with the same belief.
The maximum is found by Dinkelbach's method: for a price l of a response, backward induction finds the plan with the
largest E[signal] - l E[cost], whose ratio is the next l.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dps_ray.beliefs.beta_rates import BetaRates

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

NOISE = 2.0  # so a mixed group of 4 is worth 0.9 of one of 8, as measured: docs/method.md
ROUND = 0.5  # responses
_ITERATIONS = 30  # 3 to 5 are usual


class Plan(NamedTuple):
    """What each prompt is asked for, and what is expected to come of it.

    more:   int64 (k + 1, k + 1, prompts), [n, s]: responses of the next round when s of n are right, 0: stop
    signal: float64 (prompts,), E[signal]
    cost:   float64 (prompts,), E[responses + ROUND (rounds - 1)]
    """

    more: Counts
    signal: Floats
    cost: Floats

    def next(self, successes: ArrayLike, responses: ArrayLike) -> Counts:
        """Returns the responses of the next round of each prompt: int64 (prompts,). Of the first one after 0 of 0."""
        size = np.minimum(responses, len(self.more) - 1)
        found: Counts = self.more[size, np.minimum(successes, size), np.arange(self.more.shape[2])]
        return found


def signal(successes: ArrayLike, responses: ArrayLike) -> Floats:
    """Returns the signal of groups with so many right of so many responses, in [0, 1)."""
    right, size = (np.asarray(given, dtype=np.float64) for given in (successes, responses))
    return 2 * np.sqrt(right * (size - right)) / (size + NOISE)


def plan(prior: BetaRates, k: int, ends_mixed: bool = True) -> Plan:
    """Returns the best plan of each prompt for groups of 2 to k responses.

    ends_mixed: a group that is mixed gets no further round, even if it would be worth its cost.
    """
    price = np.zeros(len(prior.a))
    best = _best(prior, price, k, ends_mixed)
    for _ in range(_ITERATIONS):
        ratio = best.signal / best.cost
        going = ratio > price * (1 + 1e-12)
        if not going.any():
            break
        price = np.where(going, ratio, price)
        best = _best(prior, price, k, ends_mixed)
    return best


def _best(prior: BetaRates, price: Floats, k: int, ends_mixed: bool) -> Plan:
    """Returns the plan with the largest E[signal] - price E[cost]."""
    prompts = len(price)
    more = np.zeros((k + 1, k + 1, prompts), dtype=np.int64)
    # [0: signal, 1: cost], expected from s right of n on if the next round ends at m: [.., m, s], for n from k down to 0.
    ahead = np.zeros((2, k + 1, k + 2, prompts))
    for n in range(k, -1, -1):
        s = np.arange(n + 1)[:, None]
        right = (prior.a + s) / (prior.a + prior.b + n)  # P(the next response is right)
        rounds = ahead[:, n + 1 :, : n + 1]
        rounds[:] = right * ahead[:, n + 1 :, 1 : n + 2] + (1 - right) * rounds
        sizes = np.arange(1, k - n + 1)[:, None, None]
        stop = np.stack([signal(s, max(n, 1)) + 0 * right, 0 * right])
        go_on = np.stack([rounds[0], rounds[1] + sizes + (ROUND if n else 0.0)])
        options = np.concatenate([stop[:, None], go_on], axis=1)  # [.., size of the next round, s]
        values = options[0] - price * options[1]
        if n == 0:
            values[:2] = -np.inf  # a single response is never mixed
        elif ends_mixed:
            values[1:, 1:n] = -np.inf
        best = np.argmax(values, axis=0)  # the smallest among equals
        more[n, : n + 1] = best
        ahead[:, n, : n + 1] = np.take_along_axis(options, best[None, None], axis=1)[:, 0]
    return Plan(more, ahead[0, 0, 0], ahead[1, 0, 0])
