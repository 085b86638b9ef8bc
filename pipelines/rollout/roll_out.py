"""Rollout: generates and scores responses to prompts. Training steps, probes and evaluations share this."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

from actors.environment import Environments, Scorers
from actors.requests import Request, Sampling
from actors.rollout import Rollouts
from dps_ray.beliefs.beta_rates import BetaRates
from dps_ray.errors import DPSError, EngineError
from dps_ray.groups import Group, ScoredGroup
from dps_ray.selection.rounds import RoundRule
from pipelines.rollout.encoding import Encoder
from pipelines.rollout.pool import Drawn
from pipelines.rollout.rounds import Rounds
from pipelines.rollout.turns import roll_out_turns


class InRounds(NamedTuple):
    """How groups are generated in rounds.

    prior: belief about the solve rate of each prompt, in their order
    """

    rule: RoundRule
    prior: BetaRates


class RolledOut(NamedTuple):
    """What became of the prompts that were rolled out.

    answers:   the scored group of each prompt in their order, or the error
    generated: responses that engines generated, including those of groups with an error
    """

    answers: list[ScoredGroup | DPSError]
    generated: int


def roll_out(
    drawn: Drawn,
    sampling: Sampling,
    rollouts: Rollouts,
    scorers: Scorers,
    encoder: Encoder,
    timed: Callable[[str], AbstractContextManager[None]] = lambda phase: nullcontext(),
    generated: Callable[[], None] = lambda: None,
    in_rounds: InRounds | None = None,
) -> RolledOut:
    """Generates and scores responses to each prompt: `sampling.responses`, or as many as the rule of rounds asks for.

    A group, or a round of it, is scored as soon as its responses are complete, while others are still generated. With
    environments a response is an episode over several turns.

    Args:
        encoder: tokenizes what environments say.
        timed: context manager for the phases "generate" and "score", which covers the scoring that remains after
            generation.
        generated: called for each group, or round of it, when its responses are complete.
    """
    if isinstance(scorers, Environments):
        assert in_rounds is None, "the configuration refuses rounds of episodes"
        return RolledOut(
            *roll_out_turns(
                drawn.prompts, sampling, rollouts, scorers, encoder, timed, done=generated
            )
        )
    count = 0

    def on_group(group: Group) -> None:
        nonlocal count
        count += len(group.responses)
        scoring.add(prompts[group.prompt_id], group)
        if rounds is not None:
            rounds.generated(group)
        generated()

    # Rewards depend on the text only, so verifiers get no images.
    prompts = {prompt.id: prompt._replace(images=[]) for prompt in drawn.prompts}
    scoring = scorers.scoring()
    rounds = None if in_rounds is None else Rounds(drawn.requests, *in_rounds, scoring)
    with timed("generate"):
        requests = drawn.requests if rounds is None else rounds.first
        groups = rollouts.generate(requests, sampling, on_group, rounds)
    with timed("score"):
        answers = dict(zip(scoring.prompts, scoring.result(), strict=True))
    found = [
        EngineError(f"prompt {request.prompt_id} was set aside: every engine that had it died")
        if group is None
        else _with_images(answers[request.prompt_id], request)
        for request, group in zip(drawn.requests, groups, strict=True)
    ]
    return RolledOut(found, count)


def _with_images(answer: ScoredGroup | DPSError, request: Request) -> ScoredGroup | DPSError:
    """The answer with the request's images, which the learner needs and the engine does not send back."""
    if request.images and isinstance(answer, ScoredGroup):
        return answer._replace(images=request.images)
    return answer
