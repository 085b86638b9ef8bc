"""A request for responses, and the answer, as `/inference/v1/generate` of vLLM's server has them.

The parameters are those that `RolloutEngine` gives vLLM, so a server samples the same tokens: its seeds, the distribution
and the log-probabilities are the same. JSON keeps every float32 to the bit.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from actors.requests import Request, Sampling, seed_of
from dps_ray.errors import EngineError, StaleError
from dps_ray.groups import Group, Response
from dps_ray.weights import WeightsId


def body_of(request: Request, sampling: Sampling) -> dict[str, Any]:
    """Return the JSON that asks a server for the responses to one prompt."""
    return {
        "token_ids": request.tokens.tolist(),
        "sampling_params": {
            "n": responses_of(request, sampling),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": request.max_tokens or sampling.max_tokens,
            "seed": seed_of(request, sampling),
            "logprobs": 0,
            "detokenize": False,
        },
    }


def responses_of(request: Request, sampling: Sampling) -> int:
    """Return how many responses the request asks for."""
    return sampling.responses if request.responses is None else request.responses


def group_of(
    answer: Mapping[str, Any],
    request: Request,
    expected: int,
    weights: WeightsId,
    version: str,
    texts: Callable[[Sequence[Sequence[int]]], list[str]],
) -> Group:
    """Return the group that a server answered.

    Args:
        expected: number of responses asked for.
        weights: the weights that were to sample, which the server calls `version`.
        texts: decodes the tokens of each response.

    Raises:
        StaleError: other weights sampled a token. The server was restarted, or given weights meanwhile.
        EngineError: a response is missing or was aborted.
    """
    choices = sorted(answer["choices"], key=lambda choice: choice["index"])
    ended = [choice["finish_reason"] for choice in choices]
    if len(choices) != expected or not set(ended) <= {"stop", "length"}:
        raise EngineError(
            f"asked for {expected} responses to prompt {request.prompt_id}, it answered {len(choices)} that ended "
            f"with {ended}"
        )
    if others := {str(name) for choice in choices for name in _versions(choice)} - {version}:
        raise StaleError(
            f"asked to generate with weights {version}, it used {', '.join(sorted(others))}: it was restarted, or "
            "another run gave it weights"
        )
    tokens = [choice["token_ids"] for choice in choices]
    responses = [
        Response(
            tokens=np.array(choice["token_ids"], dtype=np.int32),
            logprobs=np.array(
                [token["logprob"] for token in choice["logprobs"]["content"]], dtype=np.float32
            ),
            text=text,
            truncated=choice["finish_reason"] == "length",
        )
        for choice, text in zip(choices, texts(tokens), strict=True)
    ]
    return Group(
        request.prompt_id,
        request.tokens,
        responses,
        weights,
        first=request.first,
        turn=request.turn,
    )


def _versions(choice: Mapping[str, Any]) -> list[str | None]:
    """Return the weights that sampled the tokens of a response; None where the server does not know."""
    spans = choice["weight_versions"]
    return [None] if spans is None else [span["version"] for span in spans]
