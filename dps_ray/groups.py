"""Groups, the data that actors exchange: one prompt, responses to it and, once scored, their rewards."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dps_ray.weights import WeightsId


class Response(NamedTuple):
    tokens: NDArray[np.int32]  # (n,) including the end-of-sequence token
    logprobs: NDArray[np.float32]  # (n,) of the tokens, under the policy that sampled them
    text: str  # without special tokens
    truncated: bool  # whether the length limit, or the limit on turns, ended it
    # (n,) False on tokens that the policy did not write, such as an environment's answers; their log-probabilities
    # are 0. None: it wrote all of them.
    written: NDArray[np.bool_] | None = None
    turns: int = 1  # responses of the policy that the tokens hold, with an environment's answers between them

    @property
    def generated(self) -> int:
        """The number of tokens that the policy wrote."""
        return len(self.tokens) if self.written is None else int(self.written.sum())


class Group(NamedTuple):
    prompt_id: int
    prompt_tokens: NDArray[np.int32]  # (p,)
    responses: list[Response]  # k, or fewer in a round of the group
    weights: WeightsId  # the weights that sampled the responses
    first: int = 0  # number of the first response among all responses to the prompt in this step
    rounds: tuple[int, ...] = ()  # responses of each round; empty: there was one round
    turn: int | None = None  # of an episode over several turns: the turn that its one response is

    @property
    def key(self) -> tuple[int, int, int | None]:
        """What tells it from the other answers of the engines to a batch."""
        return self.prompt_id, self.first, self.turn


def joined(rounds: Sequence[Group]) -> Group:
    """Returns the group that has the responses of all rounds of one prompt, which are given in their order.

    Its weights are the oldest that sampled a round: an engine that is replaced between rounds may have newer ones.
    """
    if len(rounds) == 1:
        return rounds[0]
    responses = [response for each in rounds for response in each.responses]
    return rounds[0]._replace(
        responses=responses,
        weights=min(each.weights for each in rounds),
        rounds=tuple(len(each.responses) for each in rounds),
    )


class Scores(NamedTuple):
    scores: NDArray[np.float64]  # (k,) shaped rewards, from which advantages are computed
    accuracies: NDArray[
        np.float64
    ]  # (k,) in [0, 1], from which solve states are derived by default


class ScoredGroup(NamedTuple):
    group: Group
    scores: NDArray[np.float64]  # (k,)
    accuracies: NDArray[np.float64]  # (k,)
    successes: int  # number of responses that count as right, from 0 to k
    state: int  # the solve state: 0 unsolved, 1 partial, 2 solved
    images: tuple[bytes, ...] = ()  # encoded image files in the prompt
