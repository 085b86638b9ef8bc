"""When a belief has stopped moving, so that a step does not need to update it.

Closeness is relative, number by number, down to `LEAST_PROBABILITY`. An update only adds, multiplies and
normalises positive numbers, and keeps relative errors small whatever the prior; a small absolute error in
a rare state would come back large once that state is seen and its probability divides.
"""

import numpy as np
from numpy.typing import NDArray

from dps_ray.beliefs.hmm import LEAST_PROBABILITY, Beliefs, Floats, column_sums

_SMALLEST = 5e-324  # a double can hold


def least_evidence(prior: Floats, decay: float, tolerance: float) -> Floats:
    """Returns the evidence, (3, 3), below which a prompt counts as forgotten.

    `tolerance` of the prior, less the factor 1 - decay: what is left of the evidence goes on moving the
    belief for 1 / (1 - decay) steps. With decay 1 nothing is ever forgotten.
    """
    return tolerance * (1 - decay) * np.maximum(prior, LEAST_PROBABILITY * column_sums(prior))


def shortest_wait(least: Floats, decay: float) -> int:
    """Returns the least number of steps after which an observed prompt can be forgotten.

    An observation adds evidence that sums to 1 over the moves into one state, so before that
    many steps no check is needed.
    """
    if decay in (0, 1):
        return 1
    weight = max(float(least.sum(axis=1).max()), _SMALLEST)
    return max(1, int(np.log(weight) / np.log(decay)) - 1)


def forgotten(
    beliefs: Beliefs, shared: Beliefs, least: Floats, tolerance: float
) -> NDArray[np.bool_]:
    """Which beliefs are those of a prompt never seen, within the tolerance: bool (n,).

    beliefs: n prompts; shared: the one belief (n = 1) of all that were never seen.
    """
    small: NDArray[np.bool_] = np.all(beliefs.evidence <= least[:, :, None], axis=(0, 1))
    near = _near(beliefs.posterior, shared.posterior, tolerance)
    return small & near & _near(beliefs.predicted, shared.predicted, tolerance)


def converged(beliefs: Beliefs, prior: Floats, tolerance: float) -> NDArray[np.bool_]:
    """Which beliefs have arrived where their own transitions lead, with decay 1: bool (n,).

    Once there they stay: the transitions stand still, and a distribution within the tolerance of their
    fixed point is carried to one that is within it too.
    """
    limit = stationary(beliefs.evidence + prior[:, :, None])
    return _near(beliefs.posterior, limit, tolerance) & _near(beliefs.predicted, limit, tolerance)


def stationary(alpha: Floats) -> Floats:
    """The distribution that E[Phi] leaves as it is: (3, 3, n) -> (3, n); NaN where there are several.

    By the Markov chain tree theorem: the weight of a state is the sum over the spanning trees that lead
    to it, each the product of its two transitions. All terms are positive, so no digits cancel.
    """
    phi = alpha / column_sums(alpha)
    weights = np.stack(
        [
            phi[to, a] * phi[to, b] + phi[to, b] * phi[b, a] + phi[to, a] * phi[a, b]
            for to, a, b in ((0, 1, 2), (1, 0, 2), (2, 0, 1))
        ]
    )
    total = weights[0] + weights[1] + weights[2]
    shares: Floats = weights / np.where(total > 0, total, np.nan)
    return shares


def _near(belief: Floats, target: Floats, tolerance: float) -> NDArray[np.bool_]:
    room = tolerance * np.maximum(target, LEAST_PROBABILITY)
    near: NDArray[np.bool_] = np.all(np.abs(belief - target) <= room, axis=0)
    return near
