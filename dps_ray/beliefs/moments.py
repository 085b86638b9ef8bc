"""Rewards that are no matter of right and wrong: whether a prompt's next group of them will differ. Pure functions.

A prompt's rewards are taken for normal with a mean and a variance that both change as the policy learns. What
is known of them are decayed sufficient statistics (variance discounting: West & Harrison 1997, 10.8). A group
of k rewards with mean m and sample deviation s adds, after all was multiplied by the decay for each step passed,

    freedom + (k - 1),  squares + (k - 1) s^2;   weight + k,  mean <- the weighted mean of both

and with the prior, nu_0 = 2 degrees of freedom at the scale eps^2, the variance is scaled inverse chi-squared with

    nu = nu_0 + freedom,   scale = (nu_0 eps^2 + squares) / nu
    P(the next group of k has a deviation above eps) = P(F(k - 1, nu) > eps^2 / scale)

So before anything is seen, and once it is forgotten, a prompt is about as likely as not to vary: at 0.59 for k = 8. A mean that moves
between visits says nothing of how rewards differ within a group, and is kept out of the squares.

Prompts stand in the only axis; the bits of each depend on that prompt alone.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FREEDOM = 2.0  # nu_0
WEIGHT = 1.0  # rewards in the middle between low and high that a mean is weighed against


class Moments(NamedTuple):
    """What was seen of n prompts, decayed; all (n,).

    weight:  responses
    mean:    their mean reward; 0 where there are none
    freedom: degrees of freedom of the deviations within groups
    squares: sum of squared deviations within groups
    """

    weight: Floats
    mean: Floats
    freedom: Floats
    squares: Floats


def nothing(count: int) -> Moments:
    """Of prompts never seen."""
    return Moments(*(np.zeros(count) for _ in Moments._fields))


def forget(moments: Moments, kept: Floats) -> Moments:
    """Returns the moments with this share kept, (n,) in [0, 1]."""
    weight, mean, freedom, squares = moments
    return Moments(kept * weight, mean, kept * freedom, kept * squares)


def learn(moments: Moments, responses: Floats, means: Floats, deviations: Floats) -> Moments:
    """Returns the moments after one more group of each prompt, with these numbers of rewards, means and sample
    deviations: (n,) each."""
    weight = moments.weight + responses
    return Moments(
        weight=weight,
        mean=moments.mean + (means - moments.mean) * responses / weight,
        freedom=moments.freedom + (responses - 1),
        squares=moments.squares + (responses - 1) * deviations**2,
    )


def group_states(moments: Moments, size: int, least_std: float, middle: float) -> Floats:
    """P(unsolved), P(partial), P(solved) of the next group of `size` rewards: (3, n).

    Partial: their sample deviation is above `least_std`. Else solved if their mean is above `middle`, by the
    normal's mean with the variance at its scale, Student's t.
    """
    from scipy.special import fdtrc, stdtr  # here: importing it takes a third of a shard's start

    freedom = FREEDOM + moments.freedom
    scale = (FREEDOM * least_std**2 + moments.squares) / freedom
    partial = fdtrc(size - 1, freedom, least_std**2 / scale)
    weight = WEIGHT + moments.weight
    above = moments.weight * (moments.mean - middle) / weight
    solved = stdtr(freedom, above / np.sqrt(scale * (1 / size + 1 / weight)))
    return np.stack([(1 - partial) * (1 - solved), partial, (1 - partial) * solved])
