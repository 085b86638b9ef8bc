"""How far each cluster is to be believed, and how far the pool: empirical Bayes for shares of outcomes.

Clusters draw their shares of K outcomes from a Dirichlet with mean m and strength tau, and their counts from
these: the Dirichlet-multinomial. Of counts n[:, c] with sum n_c the shares then are

    (n[:, c] + tau m) / (n_c + tau)

and tau is what the spread between clusters says, beyond the spread that their counts would have by chance:
rho = 1 / (1 + tau) is the correlation of two outcomes of one cluster, and by the method of moments (as
Kleinman 1973 for the beta-binomial; Weir and Cockerham's F_ST is of this form)

    S   = sum over c of n_c |n[:, c] / n_c - p|^2,   p the pooled shares,   V = 1 - |p|^2
    E S = V [(1 - rho)(C - 1) + rho (n - sum of n_c^2 / n)],   n the sum of n_c

A clustering that tells nothing has rho near 0, and all its clusters are the pool.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEAST_STRENGTH, GREATEST_STRENGTH = 1.0, 1e4


class Shares(NamedTuple):
    """What clusters are like.

    clusters: (K, C), the shares of each, shrunk towards the pool's
    pool:     (K,), the mean cluster's
    strength: tau, in counts
    """

    clusters: Floats
    pool: Floats
    strength: float


def shrunk(counts: Floats, effective: Floats, prior: Floats) -> Shares:
    """The shares of each cluster, from its counts and those of all.

    Args:
        counts: (K, C), not negative, whole or not.
        effective: (C,), as how many counts the sum of each column is to be taken: decayed counts vary less
            than as many whole ones.
        prior: (K,), counts added to the pool's.
    """
    strength = _strength(counts, effective, prior)
    return towards_the_pool(counts, effective, prior, strength)


def towards_the_pool(counts: Floats, effective: Floats, prior: Floats, strength: float) -> Shares:
    """As `shrunk`, with a strength that is known."""
    seen = counts.any(axis=0)
    shares = counts[:, seen] / counts[:, seen].sum(axis=0)
    known = effective[seen]
    # The mean cluster: each counts by how well its own shares are known, not by how often it was chosen.
    pool = _mean(shares, known / (1 + known / (1 + strength)), prior)
    own = np.zeros_like(counts)
    own[:, seen] = shares * known
    weight = np.where(seen, effective, 0.0)
    return Shares((own + strength * pool[:, None]) / (weight + strength), pool, strength)


def _strength(counts: Floats, effective: Floats, prior: Floats) -> float:
    seen = counts.any(axis=0)
    known, others = effective[seen], np.count_nonzero(seen) - 1
    shares = counts[:, seen] / counts[:, seen].sum(axis=0)
    spare = known.sum() - (known**2).sum() / max(known.sum(), 1e-300) - others
    if others < 1 or spare <= 0:
        return GREATEST_STRENGTH
    pool = _mean(shares, known, prior)
    spread = (known * ((shares - pool[:, None]) ** 2).sum(axis=0)).sum()
    by_chance = max(1 - (pool**2).sum(), 1e-12)
    rho = (spread / by_chance - others) / spare
    return float(np.clip(1 / max(rho, 1e-9) - 1, LEAST_STRENGTH, GREATEST_STRENGTH))


def _mean(shares: Floats, weights: Floats, prior: Floats) -> Floats:
    counts = (shares * weights).sum(axis=1) + prior
    mean: Floats = counts / counts.sum()
    return mean
