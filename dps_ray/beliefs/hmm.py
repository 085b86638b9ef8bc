"""The method itself: one hidden Markov model a prompt, moved by one step. Pure functions over arrays.

Dynamics-Predictive Sampling (DPS, arXiv 2603.10887). A prompt's solve state z, unsolved, partial or
solved, moves as the policy learns. Its belief is a distribution over z; what is known of its moves are
Dirichlet counts alpha, alpha[i, j] for moves from j to i. One step, with decay lambda:

    post_t   = onehot(z_t)  if the prompt was rolled out, else mu_t                  (condition)
    xi_t     ∝ outer(post_t, post_{t-1}) * E[Phi]_{t-1}, summing to 1; 0 if it was not      (count_moves)
    alpha_t  = lambda alpha_{t-1} + (1 - lambda) alpha_0 + xi_t
    mu_{t+1} = E[Phi]_t post_t,   E[Phi] = alpha / its column sums                          (predict)

Only what was seen beyond the prior is stored: evidence_t = alpha_t - alpha_0 = lambda evidence_{t-1} + xi_t,
so that what is forgotten goes to exactly nothing.

In every array the prompts come last: (3, 3, n), (3, n). Sums over states are written out term by term.
NumPy's reductions, einsum and BLAS choose their order of summation by shape and memory layout, so that
the last bit of a prompt's belief would depend on which others share its array. Written out, each number
depends on its own prompt alone: any split of the pool over shards gives the same bits.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# Probability floor for observed transitions that the model considers impossible; see `count_moves`.
LEAST_PROBABILITY = 1e-12


class Beliefs(NamedTuple):
    """Beliefs about n prompts after a step.

    evidence:   (3, 3, n), decayed counts of the moves seen, [to, from]; alpha without the prior
    posterior:  (3, n), distribution of the state at this step, given all that was seen up to it
    predicted:  (3, n), distribution of the state at the next step
    """

    evidence: Floats
    posterior: Floats
    predicted: Floats


def initial_beliefs(count: int, initial: ArrayLike) -> Beliefs:
    """Beliefs before the first step: nothing seen, and `initial` both as posterior and as prediction."""
    start = np.repeat(np.asarray(initial, dtype=np.float64)[:, None], count, axis=1)
    return Beliefs(np.zeros((3, 3, count)), start, start.copy())


def column_sums(counts: Floats) -> Floats:
    """Sum over to-states: (3, n), for each from-state."""
    sums: Floats = counts[0] + counts[1] + counts[2]
    return sums


def predict(alpha: Floats, posterior: Floats) -> Floats:
    """E[Phi] post: the distribution of the next state, (3, n)."""
    weights = posterior / column_sums(alpha)
    coming: Floats = alpha[:, 0] * weights[0] + alpha[:, 1] * weights[1] + alpha[:, 2] * weights[2]
    return coming


def condition(states: NDArray[np.integer]) -> Floats:
    """Returns the posterior of prompts seen in these states: one-hot, (3, n)."""
    posterior: Floats = np.equal.outer(np.arange(3), states).astype(np.float64)
    return posterior


def count_moves(alpha: Floats, posterior: Floats, states: NDArray[np.integer]) -> Floats:
    """Returns the posterior of the from-state of the move into each seen state: (3, n), summing to 1.

    This is the row of xi that belongs to the seen state; the other rows are zero. A transition of
    expected probability below 1e-12 counts as 1e-12. Only a prior with
    zeros ("local": from unsolved straight to solved) leads to one, and the published code divides 0 by 0. Here the jump
    is counted as it was seen, which is also the limit of priors with ever smaller positive numbers in place of the
    zeros.
    """
    likelihood = alpha[states, :, np.arange(len(states))].T / column_sums(alpha)
    joint = posterior * np.maximum(likelihood, LEAST_PROBABILITY)
    shares: Floats = joint / (joint[0] + joint[1] + joint[2])
    return shares


def step(
    beliefs: Beliefs,
    rows: NDArray[np.integer],
    states: NDArray[np.integer],
    prior: Floats,
    decay: float,
) -> Beliefs:
    """Returns the beliefs of all n prompts after one step, in which those in `rows` (distinct) were seen in `states`."""
    prior = prior[:, :, None]
    alpha = beliefs.evidence.take(rows, axis=2) + prior
    moves = count_moves(alpha, beliefs.posterior.take(rows, axis=1), states)
    evidence = decay * beliefs.evidence
    evidence[states, :, rows] += moves.T
    posterior = beliefs.predicted.copy()
    posterior[:, rows] = condition(states)
    return Beliefs(evidence, posterior, predict(evidence + prior, posterior))


def drift(beliefs: Beliefs, prior: Floats) -> Beliefs:
    """`step` for prompts without evidence that are not rolled out: they follow the prior's transitions."""
    return Beliefs(
        beliefs.evidence,
        posterior=beliefs.predicted,
        predicted=predict(prior[:, :, None] + beliefs.evidence, beliefs.predicted),
    )


def entropy(distributions: Floats) -> Floats:
    """Shannon entropy in nats of each distribution: (3, n) -> (n,)."""
    positive = np.where(distributions > 0, distributions, 1.0)
    terms = positive * np.log(positive)
    total: Floats = -(terms[0] + terms[1] + terms[2])
    return total
