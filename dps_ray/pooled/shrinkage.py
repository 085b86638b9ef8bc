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
    totals = counts.sum(axis=0)
    seen = totals > 0
    total = effective[seen].sum()
    shares = counts[:, seen] / totals[seen]
    pool = _mean(shares, effective[seen], prior)
    strength = GREATEST_STRENGTH
    spare = total - (effective[seen] ** 2).sum() / max(total, 1e-300) - (seen.sum() - 1)
    if seen.sum() > 1 and spare > 0:
        spread = (effective[seen] * ((shares - pool[:, None]) ** 2).sum(axis=0)).sum()
        by_chance = 1 - (pool**2).sum()
        rho = (spread / max(by_chance, 1e-12) - (seen.sum() - 1)) / spare
        strength = 1 / max(rho, 1e-9) - 1
        strength = float(np.clip(strength, LEAST_STRENGTH, GREATEST_STRENGTH))
    # The mean cluster: each counts by how well its own shares are known, not by how often it was chosen.
    pool = _mean(shares, effective[seen] / (1 + effective[seen] / (1 + strength)), prior)
    weight = effective / np.maximum(totals, 1e-300)
    own = counts * weight
    return Shares((own + strength * pool[:, None]) / (effective + strength), pool, strength)


def _mean(shares: Floats, weights: Floats, prior: Floats) -> Floats:
    counts = (shares * weights).sum(axis=1) + prior
    return counts / counts.sum()
