"""A Beta distribution over each prompt's solve rate, read off a prediction of its solve states. Pure functions over arrays.

Responses whose rate p is drawn from Beta(a, b) are all right, or all wrong, with

    P(k right) = B(a + k, b) / B(a, b) = prod over i < k of (a + i) / (a + b + i),    P(k wrong): a and b exchanged
    p | s right of n  ~  Beta(a + s, b + n - s)

A prediction for a group of k, P(unsolved) = u and P(solved) = s, fixes two numbers, so it fixes a and b: `of_predicted` solves
both equations. Every selection method predicts these states, so rules that need a rate do not depend on the method. By
Jensen's inequality u^(1/k) + s^(1/k) >= 1 for any distribution of rates, with equality where p is certain. Predictions beyond
that (more mixed than any rate allows) get the certain rate p = s^(1/k) / (u^(1/k) + s^(1/k)).

Everything is computed element by element: a prompt's bits do not depend on the prompts beside it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

LEAST_PROBABILITY = 1e-9  # of a state that is predicted impossible
LEAST_SIZE, LARGEST_SIZE = 1e-6, 1e6  # bounds of a + b
_TOLERANCE = 1e-10  # of the last step in log(a + b) and log(a / b)
_STEPS = 50  # 8 suffice for nearly all
_LONGEST = 2.0  # step


class BetaRates(NamedTuple):
    """Beta distribution of each prompt's solve rate.

    a, b:   float64 (n,), both above 0
    known:  bool (n,), whether the method predicted the prompt; Beta(1, 1) where it did not
    """

    a: Floats
    b: Floats
    known: NDArray[np.bool_]

    @classmethod
    def of_predicted(cls, predicted: ArrayLike, k: int) -> "BetaRates":
        """Returns the Beta distributions for which groups of k have the predicted states.

        predicted: float (n, 3), P(unsolved), P(partial), P(solved) of a group of k; NaN where nothing is predicted.

        Raises ValueError for k below 2, another shape, and probabilities that are negative or do not sum to 1.
        """
        given = np.asarray(predicted, dtype=np.float64)
        if k < 2:
            raise ValueError(f"a group of {k} is never mixed: write k=2 or more")
        if given.ndim != 2 or given.shape[1] != 3:
            raise ValueError(f"predicted has shape {given.shape}: give (n, 3), one row a prompt")
        known = np.asarray(~np.isnan(given).any(axis=1))
        wrong = np.flatnonzero(
            known & ((given < -1e-6).any(axis=1) | ~(np.abs(given.sum(axis=1) - 1) < 1e-6))
        )
        if len(wrong):
            raise ValueError(
                f"row {wrong[0]} of predicted is {given[wrong[0]]}: give three probabilities that sum to 1"
            )
        a, b = np.ones(len(given)), np.ones(len(given))
        a[known], b[known] = _solve(given[known, 0], given[known, 2], k)
        return cls(a, b, known)

    @property
    def mean(self) -> Floats:
        """Expected rates: (n,)."""
        return self.a / (self.a + self.b)

    @property
    def variance(self) -> Floats:
        """Variances of the rates: (n,)."""
        size = self.a + self.b
        return self.a * self.b / (size**2 * (size + 1))

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> "BetaRates":
        """Returns the distributions of these prompts only, in this order."""
        return BetaRates(self.a[rows], self.b[rows], self.known[rows])

    def updated(self, successes: ArrayLike, responses: ArrayLike) -> "BetaRates":
        """Returns the distributions after so many right responses of so many: int (n,) each."""
        right, scored = np.asarray(successes), np.asarray(responses)
        return BetaRates(self.a + right, self.b + (scored - right), self.known)

    def chance_mixed(
        self, more: ArrayLike, successes: ArrayLike = 0, responses: ArrayLike = 0
    ) -> Floats:
        """P(the group is mixed after `more` further responses | what came so far): (n,).

        more, successes, responses: integers >= 0, one for all prompts or (n,).
        """
        further, right, scored = (
            np.broadcast_to(np.asarray(given), self.a.shape)
            for given in (more, successes, responses)
        )
        now = self.updated(right, scored)
        wrong, _, solved = group_states(now.a, now.b, further).T
        none_right, all_right = right == 0, right == scored  # both before the first response
        same = np.where(none_right, wrong, 0) + np.where(all_right, solved, 0)
        return np.where(scored + further == 0, 0.0, np.maximum(1 - same, 0))


def group_states(a: Floats, b: Floats, size: ArrayLike) -> Floats:
    """P(all wrong), P(mixed), P(all right) of `size` responses, whose rate is Beta(a, b): float64 (n, 3).

    size: one number for all prompts or int (n,). Of no responses both "all wrong" and "all right" are 1.
    """
    count = np.asarray(size)
    wrong, right = np.ones(a.shape), np.ones(a.shape)
    for i in range(int(count.max(initial=0))):
        if count.ndim == 0:
            wrong *= (b + i) / (a + b + i)
            right *= (a + i) / (a + b + i)
        else:
            wrong *= np.where(i < count, (b + i) / (a + b + i), 1)
            right *= np.where(i < count, (a + i) / (a + b + i), 1)
    return np.stack([wrong, 1 - (wrong + right), right], axis=-1)


def _solve(unsolved: Floats, solved: Floats, k: int) -> tuple[Floats, Floats]:
    """Returns a and b, by Newton's method in y = log(a + b) and z = log(a / b).

    The equations are in the form in which both are nearly linear:

        log P(mixed) - log log(u^(1/k) + s^(1/k))   its first term rises with y where a + b is small, its second where large
        log s - log u                               rises with z
    """
    u, s = (np.clip(p, LEAST_PROBABILITY, 1) for p in (unsolved, solved))
    target = _spread(np.log(u), np.log(s), k)
    z = (np.log(s) - np.log(u)) / k
    y = np.zeros_like(z)
    going = np.arange(len(z))
    for _ in range(_STEPS):
        dy, dz = _step(y[going], z[going], target[going], (np.log(s) - np.log(u))[going], k)
        y[going] += dy
        z[going] += dz
        going = going[np.maximum(np.abs(dy), np.abs(dz)) > _TOLERANCE]
        if not len(going):
            break
    return np.exp(y - np.logaddexp(0, -z)), np.exp(y - np.logaddexp(0, z))


def _spread(log_u: Floats, log_s: Floats, k: int) -> Floats:
    mixed = np.maximum(1 - (np.exp(log_u) + np.exp(log_s)), 1e-15)
    spread: Floats = np.log(mixed) - np.log(np.maximum(np.logaddexp(log_u / k, log_s / k), 1e-9))
    return spread


def _step(y: Floats, z: Floats, target: Floats, odds: Floats, k: int) -> tuple[Floats, Floats]:
    """Newton's step, no longer than `_LONGEST`, with a + b kept within its bounds."""
    mean, other = 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(z))
    a, b = np.exp(y) * mean, np.exp(y) * other
    log_u, log_s, by_a, by_b, by_both = (np.zeros_like(a) for _ in range(5))
    for i in range(k):
        log_u += np.log((b + i) / (a + b + i))
        log_s += np.log((a + i) / (a + b + i))
        by_a += 1 / (a + i)
        by_b += 1 / (b + i)
        by_both += 1 / (a + b + i)
    u_y, s_y = b * by_b - (a + b) * by_both, a * by_a - (a + b) * by_both
    u_z, s_z = -b * mean * by_b, a * other * by_a  # a + b does not change with z
    u, s = np.exp(log_u), np.exp(log_s)
    mixed = np.maximum(1 - (u + s), 1e-15)
    root_u, root_s = np.exp(log_u / k), np.exp(log_s / k)
    sharp = np.maximum(np.log(root_u + root_s), 1e-9) * (root_u + root_s) * k

    def spread_by(of_u: Floats, of_s: Floats) -> Floats:
        by: Floats = -(u * of_u + s * of_s) / mixed - (root_u * of_u + root_s * of_s) / sharp
        return by

    off, off_odds = _spread(log_u, log_s, k) - target, log_s - log_u - odds
    spread_y, spread_z = spread_by(u_y, s_y), spread_by(u_z, s_z)
    odds_y, odds_z = s_y - u_y, s_z - u_z
    dy = -(off * odds_z - off_odds * spread_z) / (spread_y * odds_z - spread_z * odds_y)
    dy = np.clip(dy, -_LONGEST, _LONGEST)
    dy = np.clip(y + dy, np.log(LEAST_SIZE), np.log(LARGEST_SIZE)) - y
    dz = np.clip(-(off_odds + odds_y * dy) / odds_z, -_LONGEST, _LONGEST)
    return dy, dz
