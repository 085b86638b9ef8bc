"""Advantages of tokens from the values of a critic: generalized advantage estimation (GAE, arXiv 1506.02438).

A response is an episode: its tokens are the actions, and its score is the reward of the last one. V_t is the critic's
value of the state before token t, and 0 after the last token. With delta_t = r_t + gamma V_{t+1} - V_t, eq. 16 there is

    A_t = delta_t + gamma lam A_{t+1}

With gamma = lam = 1, verl's defaults, the advantage is the score minus the value. The critic learns the returns A_t + V_t.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_LEAST_VARIANCE = 1e-8  # as in verl's `masked_whiten`


class Estimates(NamedTuple):
    """What a critic's values say of R tokens, each (R,) float64; 0 on tokens that are not trained."""

    advantages: NDArray[np.float64]
    returns: NDArray[np.float64]  # targets of the critic


def token_estimates(
    values: NDArray[np.floating],
    scores: NDArray[np.floating],
    lengths: NDArray[np.int64],
    *,
    gamma: float = 1.0,
    lam: float = 1.0,
    trained: NDArray[np.bool_] | None = None,
) -> Estimates:
    """Returns advantages and returns of the tokens of n responses, which are concatenated, R tokens in all.

    Args:
        values: (R,) value of the state before each token.
        scores: (n,) score of each response, the reward of its last trained token.
        lengths: (n,) tokens of each response.
        gamma: discount of later rewards, a token.
        lam: share of what comes later that is taken from the rewards, and not from the next value.
        trained: (R,) tokens that the policy wrote. Others are no actions: they are left out, and the next state after a
            token is the one before the next trained token, as in verl. None: all.
    """
    if trained is not None:
        return _of_trained(values, scores, lengths, gamma, lam, trained)
    rows, columns = _right_aligned(lengths)
    longest = int(lengths.max(initial=0))
    padded = np.zeros((len(lengths), longest + 1))  # the last column is the value after a response
    padded[rows, columns] = values
    rewards = np.zeros((len(lengths), longest))
    if longest:
        rewards[:, -1] = scores
    deltas = rewards + gamma * padded[:, 1:] - padded[:, :-1]
    advantages = np.zeros_like(padded)
    for t in reversed(range(longest)):
        advantages[:, t] = deltas[:, t] + gamma * lam * advantages[:, t + 1]
    found = advantages[rows, columns]
    return Estimates(found, found + values)


def _of_trained(
    values: NDArray[np.floating],
    scores: NDArray[np.floating],
    lengths: NDArray[np.int64],
    gamma: float,
    lam: float,
    trained: NDArray[np.bool_],
) -> Estimates:
    row_of_each = np.repeat(np.arange(len(lengths)), lengths)
    left = np.bincount(row_of_each[trained], minlength=len(lengths))
    found = token_estimates(values[trained], scores, left, gamma=gamma, lam=lam)
    whole = np.zeros((2, len(values)))
    whole[:, trained] = found
    return Estimates(*whole)


def _right_aligned(lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The row and the column of each token, where every response ends at the same column: two (R,)."""
    rows = np.repeat(np.arange(len(lengths)), lengths)
    ends = np.cumsum(lengths)
    from_the_end = ends[rows] - np.arange(len(rows))
    return rows, lengths.max(initial=0) - from_the_end


def whitened(
    advantages: NDArray[np.float64], trained: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Returns the advantages of a batch's tokens with mean 0 and variance 1, (R,) -> (R,): as verl's `masked_whiten`.

    A single token, and tokens that all have the same advantage, get 0.

    Args:
        trained: (R,) tokens that count; others get 0. None: all.
    """
    counted = advantages if trained is None else advantages[trained]
    if len(counted) < 2:
        return np.zeros_like(advantages)
    scaled = (advantages - counted.mean()) / np.sqrt(counted.var(ddof=1) + _LEAST_VARIANCE)
    return scaled if trained is None else np.where(trained, scaled, 0.0)


def explained_variance(
    values: NDArray[np.floating],
    returns: NDArray[np.floating],
    trained: NDArray[np.bool_] | None = None,
) -> float | None:
    """Returns the share of the variance of the returns that the values explain: ``1 - Var(returns - values) / Var(returns)``.

    1: the values are right. 0: a constant would do as well. Below 0: worse than a constant. None: all returns are equal,
    so there is nothing to explain.

    Args:
        values, returns: (R,).
        trained: (R,) tokens that count; None: all.
    """
    if trained is not None:
        values, returns = values[trained], returns[trained]
    if len(returns) == 0 or np.ptp(returns) == 0:
        return None
    return float(1.0 - np.var(returns - values) / np.var(returns))
