"""Rounds that follow from the belief: the plan with the most expected signal for its expected cost. Pure functions.

The signal of a group with s right of n responses is what its gradient tells about the direction that helps all prompts:

    h = s (n - s) / n,    signal = h / (h + RHO)

h is the inverse variance of the difference between the mean of s and the mean of n - s responses, and RHO the variance within a
prompt's group over that between prompts: more responses to a prompt remove the first kind of noise only. A group whose
responses are all alike has no signal. A plan pays for each response, and `ROUND` of one for each further round, as the engines
wait a little for it. With tau the rounds of a plan,

    plan = argmax over tau of  E[signal] / E[responses + ROUND (rounds - 1)],    the rate p ~ Beta(a, b)

so a group stops when going on would earn less for its cost than another prompt with the same belief. Mixed groups are done.
The maximum is found by Dinkelbach's method: for a price l of a response, backward induction finds the plan with the
largest E[signal] - l E[cost], whose ratio is the next l. As long as a group is not mixed, all of its n responses are wrong,
or all are right, so there are two states for each n.
"""

from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dps_ray.beliefs.beta_rates import BetaRates

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

RHO = 0.3  # a mixed group of 4 is worth 0.9 of one of 8, as in docs/comparison.md
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


def signal(successes: float, responses: int) -> float:
    """Returns the signal of a group, in [0, 1)."""
    noise_free = successes * (responses - successes) / responses
    return noise_free / (noise_free + RHO)


class _Chances(NamedTuple):
    """What can happen to each prompt. A path is counted with its probability from before the first response.

    alike:  {side: float64 (k + 1, n)}, P(the first m responses are all of this side)
    gained: {side: {(n, m): float64 (n,)}}, E[signal; mixed by the m responses after n that were all of this side]
    mixed:  {m: float64 (n,)}, E[signal; mixed by the first m responses]
    """

    alike: tuple[Floats, Floats]
    gained: tuple[dict[tuple[int, int], Floats], dict[tuple[int, int], Floats]]
    mixed: dict[int, Floats]


def plan(prior: BetaRates, k: int) -> Plan:
    """Returns the best plan of each prompt for groups of at most k >= 2 responses."""
    chances = _chances(prior.a, prior.b, k)
    price = np.zeros(len(prior.a))
    best = _best(chances, price, k)
    for _ in range(_ITERATIONS):
        better = best.signal / best.cost
        going = better > price * (1 + 1e-12)
        if not going.any():
            break
        price = np.where(going, better, price)
        best = _best(chances, price, k)
    return best


def _chances(a: Floats, b: Floats, k: int) -> _Chances:
    rising_a, rising_b, rising = (_log_rising(x, k) for x in (a, b, a + b))

    def sequence(right: int, size: int) -> Floats:
        """P(a given sequence of responses, so many of them right)."""
        return np.exp(rising_a[right] + rising_b[size - right] - rising[size])

    table = {(s, n): sequence(s, n) for n in range(1, k + 1) for s in range(n + 1)}
    gained: tuple[dict[tuple[int, int], Floats], dict[tuple[int, int], Floats]] = ({}, {})
    for before in range(1, k):
        for more in range(1, k - before + 1):
            size = before + more
            for side in (0, 1):
                gained[side][before, more] = _sum(
                    comb(more, j) * signal(j, size) * table[j if side == 0 else size - j, size]
                    for j in range(1, more + 1)
                )
    mixed = {
        m: _sum(comb(m, j) * signal(j, m) * table[j, m] for j in range(1, m))
        for m in range(2, k + 1)
    }
    ones = np.ones_like(a)
    alike = (
        np.stack([ones, *(table[0, n] for n in range(1, k + 1))]),
        np.stack([ones, *(table[n, n] for n in range(1, k + 1))]),
    )
    return _Chances(alike, gained, mixed)


def _log_rising(x: Floats, k: int) -> Floats:
    """log of x (x + 1) ... (x + m - 1) for m from 0 to k: (k + 1, n)."""
    logs = [np.zeros_like(x)]
    for i in range(k):
        logs.append(logs[-1] + np.log(x + i))
    return np.stack(logs)


def _sum(terms) -> Floats:
    total = None
    for term in terms:
        total = term if total is None else total + term
    assert total is not None
    return total


class _Ahead(NamedTuple):
    """What the best plan still earns and pays from some state on, times the probability of that state."""

    signal: Floats
    cost: Floats


def _best(chances: _Chances, price: Floats, k: int) -> Plan:
    """Returns the plan with the largest E[signal] - price E[cost]."""
    nothing = _Ahead(np.zeros_like(price), np.zeros_like(price))
    ahead: tuple[list[_Ahead], list[_Ahead]] = tuple([nothing] * (k + 1) for _ in range(2))  # type: ignore[assignment]
    rounds = [np.zeros((len(price), k + 1), dtype=np.int64) for _ in range(2)]
    for before in range(k - 1, 0, -1):
        for side in (0, 1):
            here = chances.alike[side][before]
            options = [nothing] + [
                _Ahead(
                    chances.gained[side][before, more] + ahead[side][before + more].signal,
                    here * (more + ROUND) + ahead[side][before + more].cost,
                )
                for more in range(1, k - before + 1)
            ]
            ahead[side][before], rounds[side][:, before] = _chosen(options, price)
    options = [
        _Ahead(
            chances.mixed[m] + ahead[0][m].signal + ahead[1][m].signal,
            m + ahead[0][m].cost + ahead[1][m].cost,
        )
        for m in range(2, k + 1)
    ]
    start, first = _chosen(options, price)
    return Plan(first + 2, rounds[0], rounds[1], start.signal, start.cost)


def _chosen(options: list[_Ahead], price: Floats) -> tuple[_Ahead, Counts]:
    """Returns the best of these for each prompt, and its place; the first among equals."""
    signals, costs = (np.stack(column) for column in zip(*options, strict=True))
    best = np.argmax(signals - price * costs, axis=0)
    prompts = np.arange(len(price))
    return _Ahead(signals[best, prompts], costs[best, prompts]), best.astype(np.int64)
