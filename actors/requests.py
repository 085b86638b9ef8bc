"""What a rollout engine is asked: prompts, and how to sample the responses to them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sampling:
    """How to sample k responses to each prompt."""

    responses: int
    temperature: float
    top_p: float
    max_tokens: int
    # Together with the prompt's id this seeds its responses, so that they do not depend on which engine
    # answers, nor on a restart in between.
    seed: str


@dataclass(frozen=True)
class Request:
    """A prompt to be answered."""

    prompt_id: int
    tokens: NDArray[np.int32]  # an image's placeholder is repeated for each token of the image
    images: tuple[bytes, ...] = ()  # encoded files
