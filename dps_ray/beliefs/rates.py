"""Solve rates that move: one hidden Markov model a prompt over a grid of rates, fed by counts. Pure functions over arrays.

The three states of `dps_ray.beliefs.hmm` see of a group only whether all, some or none of its responses were right.
Here the latent state is the solve rate itself, one of K bins equally spaced in logit, and a group of k says as
much as it holds: s right of k. How rates move is learned from all prompts together. One step:

    L_t[i]     = p_i^s (1 - p_i)^(k - s)                                                         (likelihood)
    post_t[i]  ∝ mu_t[i] L_t[i]     if the prompt was rolled out, else mu_t                       (condition)
    xi_t[i, j] = Phi_{t-1}[i, j] post_{t-1}[j] post_t[i] / mu_t[i]                                (count_moves)
    C_t        = lambda C_{t-1} + sum of xi_t over the prompts rolled out again                   (pooled_sum, learn)
    Phi_t      = C_t and its prior, over column sums                                              (transitions)
    mu_{t+1}   = Phi_t post_t                                                                     (predict)
    P(the next group of k is mixed) = sum over i of mu_{t+1}[i] (1 - p_i^k - (1 - p_i)^k)         (group_states)

xi is the probability of the last move given all that was seen up to it (Rabiner 1989, eq. 37, at the last step),
and C what online EM with forgetting keeps of it (Cappé 2011). Rates move at most w bins a step: C and Phi are
banded and kept as (2w + 1, K), [b, j] being the move from bin j by b - w.

A prompt that was never seen is believed to be as others were found at their first visits, the latest counting most
(`Pool.fresh`). It does not move by Phi, which is learned from prompts that are trained on: in real runs
never-seen prompts did not rise with them (docs/comparison.md). Each first visit corrects it.

In every array of prompts these come last, and sums over bins are written out term by term, for the reason
given in `dps_ray.beliefs.hmm`: the bits of a belief depend on its own prompt alone. Sums over prompts are of
integers, which have no order: parts of a pool add up to the whole, exactly.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# What a bin that is held all but impossible is taken to be worth when a group speaks for it: a rate that
# fell from one end to the other within a step did so, whatever the band says.
LEAST_PROBABILITY = 1e-12
# Quanta of a pooled sum to one prompt: 10^9 prompts a step fit into 63 bits.
QUANTA = 2**32


# The prior of moves: a policy that learns rises more often than it falls, as in the published "progress".
MOVES = (0.01, 0.02, 0.87, 0.07, 0.03)  # from two bins down to two up
MOVES_STRENGTH = 20.0  # in moves seen: that against which all bins together are weighed
BIN_STRENGTH = 100.0  # in moves: weight of the moves of all bins in those of each
# First visits after which a first visit counts a part 1/e: of never-seen prompts they are a fair sample.
MEMORY = 256.0


class Grid(NamedTuple):
    """The bins: log p and log(1 - p) of each, both (K,), p ascending."""

    log_right: Floats
    log_wrong: Floats

    @property
    def rates(self) -> Floats:
        """p of each bin: (K,)."""
        return np.exp(self.log_right)


def rate_grid(bins: int = 15, reach: float = 7.0) -> Grid:
    """`bins` rates equally spaced in logit from -reach to reach. As it is: one logit apart, p from .0009 to
    .9991, so that the outermost groups of 8 are mixed once in 140.

    Raises ValueError for fewer than 2 bins, and a reach that is not positive or above 700.
    """
    if bins < 2 or not 0 < reach <= 700:
        raise ValueError(
            f"a grid of {bins} bins up to the logit {reach}: write 2 bins or more, and a reach above 0, "
            "at the most 700"
        )
    logits = np.linspace(-reach, reach, bins)
    return Grid(-np.log1p(np.exp(-logits)), -np.log1p(np.exp(logits)))


def likelihood(grid: Grid, successes: ArrayLike, responses: ArrayLike) -> Floats:
    """Of these counts in each bin, relative to the likeliest bin: (K, n) in [0, 1], no column all zero.

    successes, responses: (n,), s right of k >= 1; the binomial coefficient, alike in all bins, is left out.
    """
    right = np.asarray(successes, dtype=np.float64)
    wrong = np.asarray(responses, dtype=np.float64) - right
    logs = grid.log_right[:, None] * right + grid.log_wrong[:, None] * wrong
    relative: Floats = np.exp(logs - logs.max(axis=0))
    return relative


def condition(predicted: Floats, likelihood: Floats) -> Floats:
    """The posterior once the counts are seen: (K, n). A bin held less likely than 1e-12 counts as 1e-12, so
    that no outcome is impossible."""
    joint = np.maximum(predicted, LEAST_PROBABILITY) * likelihood
    return joint / over_bins(joint)


def predict(transitions: Floats, posterior: Floats) -> Floats:
    """Phi post: the distribution of the rate at the next step, (K, n)."""
    predicted = np.zeros_like(posterior)
    for move, here, there in _moves(transitions):
        predicted[there] += move[here, None] * posterior[here]
    return predicted


def count_moves(
    transitions: Floats, posterior: Floats, predicted: Floats, filtered: Floats
) -> Floats:
    """xi: the probability of each move into this step, given the counts up to it: (2w + 1, K, n).

    posterior: (K, n), of the step before; predicted: (K, n), what it predicted; filtered: (K, n), once the
    counts were seen. It sums to 1 over the moves of a prompt, less what `condition` gave to bins that no
    move of the band leads to.
    """
    ratio = filtered / np.maximum(predicted, LEAST_PROBABILITY)
    moves = np.zeros((len(transitions), *posterior.shape))
    for row, (move, here, there) in zip(moves, _moves(transitions), strict=True):
        row[here] = move[here, None] * posterior[here] * ratio[there]
    return moves


def pooled_sum(values: Floats) -> NDArray[np.int64]:
    """The sum over prompts (the last axis) of values in [0, 1], in quanta of 2^-32: int64.

    Each value is rounded to whole quanta first, so sums of parts add up to the sum of the whole, exactly.
    """
    total: NDArray[np.int64] = np.rint(values * QUANTA).astype(np.int64).sum(axis=-1)
    return total


def group_states(grid: Grid, belief: Floats, size: ArrayLike) -> Floats:
    """P(all wrong), P(mixed), P(all right) of the next group: (3, n).

    size: responses of that group, one number for all prompts or (n,).
    """
    k = np.asarray(size, dtype=np.float64)
    wrong = over_bins(belief * _power(grid.log_wrong, k))
    right = over_bins(belief * _power(grid.log_right, k))
    # Of a belief that sums to 1 but for the rounding, what is left is not below 0 but for the rounding.
    return np.stack([wrong, np.maximum(1 - (wrong + right), 0), right])


class Pool(NamedTuple):
    """What all prompts together have shown.

    moves:  (2w + 1, K), C, the decayed counts of moves, without the prior
    fresh:  (K,), counts of the rates of prompts never seen; its sum says how much is known of them
    """

    moves: Floats
    fresh: Floats


def initial_pool(bins: int) -> Pool:
    """Nothing seen: one prompt's worth of belief in each bin.

    Raises ValueError for fewer bins than a move may be wide.
    """
    if bins < len(MOVES):
        raise ValueError(
            f"{bins} bins are too few for moves of {len(MOVES) // 2}: write {len(MOVES)}"
        )
    return Pool(np.zeros((len(MOVES), bins)), np.ones(bins))


def learn(
    pool: Pool,
    moves: NDArray[np.int64],
    found: NDArray[np.int64],
    first: int,
    decay: float,
) -> Pool:
    """The pool after a step.

    moves: int64 (2w + 1, K), `pooled_sum` of xi over all prompts rolled out again
    found: int64 (K,), `pooled_sum` of the posteriors of those rolled out for the first time
    first: how many these are
    decay: lambda, the part of earlier moves that is kept
    """
    return Pool(
        moves=decay * pool.moves + moves / QUANTA,
        # Without first visits nothing is forgotten: there is nothing newer to believe.
        fresh=np.exp(-first / MEMORY) * pool.fresh + found / QUANTA,
    )


def transitions(pool: Pool) -> Floats:
    """Phi, the expected moves: (2w + 1, K), summing to 1 over the moves from each bin.

    A bin's own counts are weighed against what all bins did, and that against `MOVES`: few prompts are ever
    seen in the outer bins. Moves that would leave the grid do not happen.
    """
    width, bins = len(pool.moves) // 2, pool.moves.shape[1]
    together = MOVES_STRENGTH * np.array(MOVES)
    for column in pool.moves.T:
        together += column
    together /= over_bins(together)
    to = np.arange(bins) + np.arange(-width, width + 1)[:, None]
    inside = np.where((to >= 0) & (to < bins), together[:, None], 0.0)
    counts = pool.moves + BIN_STRENGTH * inside / over_bins(inside)
    return counts / over_bins(counts)


def fresh_belief(pool: Pool) -> Floats:
    """What is believed of a prompt never seen: (K, 1)."""
    return (pool.fresh / over_bins(pool.fresh))[:, None]


def over_bins(values: Floats) -> Floats:
    """The sum over the first axis, in its order: (K, n) -> (n,)."""
    total: Floats = values[0].copy()
    for row in values[1:]:
        total += row
    return total


def _power(logs: Floats, k: Floats) -> Floats:
    """p^k, (K, 1) or (K, n)."""
    return np.exp(logs[:, None] * k)


def _moves(transitions: Floats) -> list[tuple[Floats, slice, slice]]:
    """Each move of the band: its row, the bins that it can start from, and those that it leads to."""
    width, bins = len(transitions) // 2, transitions.shape[1]
    return [
        (row, slice(max(0, -by), bins - max(0, by)), slice(max(0, by), bins - max(0, -by)))
        for by, row in enumerate(transitions, start=-width)
    ]
