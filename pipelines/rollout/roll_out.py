"""Rollout: generates and scores responses to prompts. Training steps, probes and evaluations share this."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from actors.requests import Request, Sampling
from actors.rollout import Rollouts
from actors.verifier import Verifiers
from dps_ray.errors import DPSError, EngineError
from dps_ray.groups import Group, ScoredGroup
from pipelines.rollout.pool import Drawn


def roll_out(
    drawn: Drawn,
    sampling: Sampling,
    rollouts: Rollouts,
    verifiers: Verifiers,
    timed: Callable[[str], AbstractContextManager[None]] = lambda phase: nullcontext(),
    generated: Callable[[], None] = lambda: None,
) -> list[ScoredGroup | DPSError]:
    """Generates and scores k responses to each prompt. Returns, in the prompts' order, the scored group or the error.

    A group is scored as soon as its k responses are complete, while other groups are still generated.

    Args:
        timed: context manager for the phases "generate" and "score", which covers the scoring that remains after
            generation.
        generated: called for each group when its k responses are complete.
    """

    def on_group(group: Group) -> None:
        scoring.add(prompts[group.prompt_id], group)
        generated()

    # Rewards depend on the text only, so verifiers get no images.
    prompts = {prompt.id: prompt._replace(images=[]) for prompt in drawn.prompts}
    scoring = verifiers.scoring()
    with timed("generate"):
        groups = rollouts.generate(drawn.requests, sampling, on_group)
    with timed("score"):
        answers = dict(zip(scoring.prompts, scoring.result(), strict=True))
    return [
        EngineError(f"prompt {request.prompt_id} was set aside: every engine that had it died")
        if group is None
        else _with_images(answers[request.prompt_id], request)
        for request, group in zip(drawn.requests, groups, strict=True)
    ]


def _with_images(answer: ScoredGroup | DPSError, request: Request) -> ScoredGroup | DPSError:
    """The answer with the request's images, which the learner needs and the engine does not send back."""
    if request.images and isinstance(answer, ScoredGroup):
        return answer._replace(images=request.images)
    return answer
