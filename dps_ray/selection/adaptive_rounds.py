"""Rounds that follow from the belief: the plan with the most expected signal for its expected cost. Pure functions.

The signal of a group with s right of n responses is the length of its part of the gradient over the noise of that part:

    signal(s, n) = 2 sqrt(r (1 - r)) / (1 + NOISE / n) = 2 sqrt(s (n - s)) / (n + NOISE),    r = s / n

2 sqrt(r (1 - r)) is the mean size of the group's normalised advantages. NOISE is the variance of the gradient between responses
to one prompt over that between prompts: more responses lower only the first. A plan pays for each response, and `ROUND` of one
for each further round, as the engines wait a little for it. The best plan has the largest

    E[signal] / E[responses + ROUND (rounds - 1)],    the rate p ~ Beta(a, b)

so a group stops when going on would earn less for its cost than another prompt with the same belief. Mixed groups are done.
The maximum is found by Dinkelbach's method: for a price l of a response, backward induction finds the plan with the
largest E[signal] - l E[cost], whose ratio is the next l. As long as a group is not mixed, all of its n responses are wrong,
or all are right, so there are two states for each n.
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

    first:  int64 (n,), responses of the first round, 2 or more
    wrong:  int64 (n, k + 1), responses of the next round when all of so many responses are wrong; 0: stop
    right:  the same when all are right
    signal: float64 (n,), E[signal]
    cost:   float64 (n,), E[responses + ROUND (rounds - 1)]
    """

    first: Counts
    wrong: Counts
    right: Counts
    signal: Floats
    cost: Floats

    def next(self, successes: Counts, responses: Counts) -> Counts:
        """Returns the responses of the next round of each prompt: int64 (n,)."""
        prompts = np.arange(len(self.first))
        scored = np.minimum(responses, self.wrong.shape[1] - 1)
        more = np.select(
            [successes == 0, successes == responses],
            [self.wrong[prompts, scored], self.right[prompts, scored]],
            0,
        )
        return np.where(scored == 0, self.first, more)


def signal(successes: ArrayLike, responses: ArrayLike) -> Floats:
    """Returns the signal of groups with so many right of so many responses, in [0, 1)."""
    right, size = (np.asarray(given, dtype=np.float64) for given in (successes, responses))
    return 2 * np.sqrt(right * (size - right)) / (size + NOISE)


def plan(prior: BetaRates, k: int) -> Plan:
    """Returns the best plan of each prompt for groups of at most k >= 2 responses."""
    model = _model(prior.a, prior.b, k)
    price = np.zeros(len(prior.a))
    best = _best(model, price)
    for _ in range(_ITERATIONS):
        ratio = best.signal / best.cost
        going = ratio > price * (1 + 1e-12)
        if not going.any():
            break
        price = np.where(going, ratio, price)
        best = _best(model, price)
    return best


class _Side(NamedTuple):
    """A group whose n responses are all wrong, or all right.

    alike:  float64 (k + 1, prompts), log P(the first m responses are all like that)
    signal: float64 (k + 1, k + 1, prompts), [n, m]: E[signal of the group at m | its first n are like that]
    """

    alike: Floats
    signal: Floats


def _model(a: Floats, b: Floats, k: int) -> tuple[_Side, _Side]:
    """Returns what is expected of groups that are all wrong so far, and of groups that are all right so far."""
    shape = (k + 1, k + 1, len(a))
    wrong, right = np.zeros(shape), np.zeros(shape)
    worth = np.zeros(shape)  # [m, s]: E[signal at m | s right of n], for n from k down to 0
    for n in range(k, -1, -1):
        s = np.arange(n + 1)[:, None]
        if n < k:
            share = (a + s) / (a + b + n)  # P(the next response is right)
            longer, now = worth[n + 1 :], slice(n + 1)
            longer[:, now] = share * longer[:, 1 : n + 2] + (1 - share) * longer[:, now]
        if n > 0:
            worth[n, : n + 1] = signal(s, n)
        wrong[n], right[n] = worth[:, 0], worth[:, n]
    log_wrong, log_right = (_log_rising(x, k) - _log_rising(a + b, k) for x in (b, a))
    return _Side(log_wrong, wrong), _Side(log_right, right)


def _log_rising(x: Floats, k: int) -> Floats:
    """log of x (x + 1) ... (x + m - 1), m from 0 to k: (k + 1, n)."""
    return np.stack([np.zeros_like(x), *np.log(x + np.arange(k)[:, None])]).cumsum(axis=0)


def _best(model: tuple[_Side, _Side], price: Floats) -> Plan:
    """Returns the plan with the largest E[signal] - price E[cost]."""
    k, prompts = len(model[0].alike) - 1, np.arange(len(price))
    earned, paid = (np.zeros((2, k + 1, len(price))) for _ in range(2))  # from each state on
    rounds = np.zeros((2, k + 1, len(price)), dtype=np.int64)

    def choose(signals: Floats, costs: Floats) -> tuple[Counts, Floats, Floats]:
        best = np.argmax(signals - price * costs, axis=0)  # the smallest among equals
        return best, signals[best, prompts], costs[best, prompts]

    for n in range(k - 1, 0, -1):
        more = np.arange(k - n + 1)[:, None]
        for i, side in enumerate(model):
            chance = np.exp(side.alike[n:] - side.alike[n])
            signals = side.signal[n, n:] + chance * earned[i, n:]
            costs = more + ROUND + chance * paid[i, n:]
            signals[0] = costs[0] = 0  # stop
            rounds[i, n], earned[i, n], paid[i, n] = choose(signals, costs)
    chances = np.exp(np.stack([side.alike[2:] for side in model]))
    first, signals, costs = choose(
        model[0].signal[0, 2:] + (chances * earned[:, 2:])[0] + (chances * earned[:, 2:])[1],
        np.arange(2, k + 1)[:, None] + (chances * paid[:, 2:])[0] + (chances * paid[:, 2:])[1],
    )
    return Plan(first + 2, rounds[0].T, rounds[1].T, signals, costs)
