"""A group: one prompt, its k responses, and, once scored, their rewards. What travels between actors."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


def weights_name(epoch: int, version: int) -> str:
    """The name of a learner's weights, which no others ever have: `e0007.00000040`.

    Args:
        epoch: of the driver: one more after every resume and every rollback.
        version: the training step that made them.
    """
    return f"e{epoch:04}.{version:08}"


def weights_version(name: str) -> int:
    """The version in a name made by `weights_name`."""
    return int(name.rpartition(".")[2])


class Response(NamedTuple):
    tokens: NDArray[np.int32]  # (n,) the end-of-sequence token included
    logprobs: NDArray[np.float32]  # (n,) of the tokens, under the policy that sampled them
    text: str  # without special tokens
    truncated: bool  # stopped by the length limit


class Group(NamedTuple):
    prompt_id: int
    prompt_tokens: NDArray[np.int32]  # (p,)
    responses: list[Response]  # k
    weights: str  # name of the weights that sampled


class Scores(NamedTuple):
    scores: NDArray[np.float64]  # (k,) rewards, shaped: what advantages are made of
    accuracies: NDArray[np.float64]  # (k,) in [0, 1]: what solve states are made of, by default


class ScoredGroup(NamedTuple):
    group: Group
    scores: NDArray[np.float64]  # (k,)
    accuracies: NDArray[np.float64]  # (k,)
    successes: int  # responses that count as right, from 0 to k
    state: int  # the solve state: 0 unsolved, 1 partial, 2 solved
    images: tuple[bytes, ...] = ()  # encoded files that the prompt shows
