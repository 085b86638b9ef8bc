"""Prompts in, scored groups out: what a training step, a probe and an evaluation have in common."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
from numpy.typing import NDArray

from actors.requests import Request, Sampling
from actors.rollout import Rollouts
from actors.verifier import Verifiers
from dps_ray.errors import DPSError, EngineError
from dps_ray.groups import Group, ScoredGroup
from pipelines.rollout.pool import PromptPool


def roll_out(
    pool: PromptPool,
    ids: NDArray[np.int64],
    sampling: Sampling,
    rollouts: Rollouts,
    verifiers: Verifiers,
    timed: Callable[[str], AbstractContextManager[None]] = lambda phase: nullcontext(),
    generated: Callable[[], None] = lambda: None,
) -> list[ScoredGroup | DPSError]:
    """Generate and score k responses to each prompt; a group, or why there is none, in their order.

    A group is scored as soon as its k responses are there, while others are generated.

    Args:
        timed: entered with "select", "generate", and "score" around what is left to score then.
        generated: called for each group as soon as its k responses are there.
    """

    def on_group(group: Group) -> None:
        scoring.add(prompts[group.prompt_id], group)
        generated()

    with timed("select"):
        found = pool.prompts(ids)
        requests = pool.requests(found)
        # A reward is given for the text.
        prompts = {prompt.id: prompt._replace(images=[]) for prompt in found}
    scoring = verifiers.scoring()
    with timed("generate"):
        groups = rollouts.generate(requests, sampling, on_group)
    with timed("score"):
        answers = dict(zip(scoring.prompts, scoring.result(), strict=True))
    return [
        EngineError(f"prompt {request.prompt_id} was set aside: every engine that had it died")
        if group is None
        else _with_images(answers[request.prompt_id], request)
        for request, group in zip(requests, groups, strict=True)
    ]


def _with_images(answer: ScoredGroup | DPSError, request: Request) -> ScoredGroup | DPSError:
    """For the learner: from the engine they do not come back."""
    if request.images and isinstance(answer, ScoredGroup):
        return answer._replace(images=request.images)
    return answer
