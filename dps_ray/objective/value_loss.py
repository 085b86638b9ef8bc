"""The loss of PPO's critic, which learns the returns of tokens."""

from typing import NamedTuple

import torch
from torch import Tensor


class ValueLoss(NamedTuple):
    """The loss of each token and whether it was clipped, each (b, t)."""

    loss: Tensor  # to be minimised
    clipped: Tensor  # bool: the loss is that of the clipped value


def value_loss(values: Tensor, before: Tensor, returns: Tensor, clip: float) -> ValueLoss:
    """Half the squared error of the values, clipped as in PPO2 and verl's ``compute_value_loss``:

        0.5 max((V - R)^2, (clamp(V, V_before - clip, V_before + clip) - R)^2)

    A value that has moved further than `clip` towards its return has no gradient, so one batch cannot move it further.

    Args:
        values: (b, t) of the critic in training; they carry the gradient.
        before: (b, t) values before the batch's first update.
        returns: (b, t).
        clip: largest change of a value by one batch, in units of the score.
    """
    bounded = torch.clamp(values, before - clip, before + clip)
    plain, of_bounded = (values - returns) ** 2, (bounded - returns) ** 2
    return ValueLoss(0.5 * torch.maximum(plain, of_bounded), of_bounded > plain)
