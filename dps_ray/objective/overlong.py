"""Penalties of long responses (DAPO, arXiv 2503.14476, eq. 13)."""

import numpy as np
from numpy.typing import NDArray


def overlong_penalties(
    lengths: NDArray[np.int64], *, limit: int, buffer: int, penalty: float
) -> NDArray[np.float64]:
    """What is added to the scores of responses, from -penalty to 0: (n,) float64.

    It is 0 up to ``limit - buffer`` tokens, -penalty from `limit` tokens on, and a straight line between. As in verl's
    ``DAPORewardManager``.

    Args:
        lengths: (n,) tokens of each response.
        limit: the most tokens that a response can have.
        buffer: tokens before the limit in which the score falls, at least 1.
        penalty: what a response of `limit` tokens loses.
    """
    beyond = (np.asarray(lengths) - (limit - buffer)) / buffer
    return -penalty * np.clip(beyond, 0.0, 1.0)
