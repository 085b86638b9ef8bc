"""What a rollout engine is asked: prompts, and how to sample the responses to them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sampling:
    """How to sample the responses to each prompt."""

    responses: int  # to each prompt whose request does not say how many
    temperature: float
    top_p: float
    max_tokens: int
    # With the prompt's id and the number of the response this seeds each response. So responses do not depend on
    # which engine answers, on a restart in between, nor on how many are asked for at a time.
    seed: str


@dataclass(frozen=True)
class Request:
    """A prompt to be answered, or a round: some of the responses to it."""

    prompt_id: int
    tokens: NDArray[np.int32]  # an image's placeholder is repeated for each token of the image
    images: tuple[bytes, ...] = ()  # encoded files
    first: int = 0  # number of the first response among all responses to the prompt in this step
    responses: int | None = None  # None: as `Sampling` says
    # Of an episode over several turns, which is response number `first`: the number of the turn. `tokens` are the prompt
    # and all turns before. None: a response has one turn.
    turn: int | None = None
    max_tokens: int | None = None  # of this turn; None: as `Sampling` says

    @property
    def key(self) -> tuple[int, int, int | None]:
        """What tells it from the other requests of a batch."""
        return self.prompt_id, self.first, self.turn

    def round(self, first: int, responses: int) -> "Request":
        """Return the request for these responses to the same prompt."""
        return replace(self, first=first, responses=responses)


def seed_of(request: Request, sampling: Sampling) -> int:
    """Return the seed of the request's first response; vLLM adds the response's index in its round to it."""
    turn = f":turn-{request.turn}" if request.turn else ""  # the first as if there were no other
    key = f"{sampling.seed}:{request.prompt_id}{turn}"
    digest = hashlib.blake2b(key.encode(), digest_size=4).digest()
    return (int.from_bytes(digest, "little") >> 1) + request.first


class FurtherRequests(Protocol):
    """Asks for more while engines work, once what they answered is scored."""

    def take(self) -> Sequence[Request]:
        """Return the requests that became due since the last call, without waiting."""
        ...

    def calls(self) -> list[Any]:
        """Return the Ray calls whose answers may make requests due; none when there will be no more requests."""
        ...


class NoFurtherRequests:
    """Every response is asked for at once."""

    def take(self) -> Sequence[Request]:
        return ()

    def calls(self) -> list[Any]:
        return []
