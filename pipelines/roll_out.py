"""Prompts in, scored groups out: what a training step, a probe and an evaluation have in common."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
from numpy.typing import NDArray

from actors.rollout import Rollouts, Sampling
from actors.verifier import Verifiers
from dps_ray.errors import DPSError, EngineError
from dps_ray.groups import ScoredGroup
from pipelines.pool import PromptPool


def roll_out(
    pool: PromptPool,
    ids: NDArray[np.int64],
    sampling: Sampling,
    rollouts: Rollouts,
    verifiers: Verifiers,
    timed: Callable[[str], AbstractContextManager[None]] = lambda phase: nullcontext(),
) -> list[ScoredGroup | DPSError]:
    """Generate and score k responses to each prompt; a group, or why there is none, in their order.

    Args:
        timed: entered with "select", "generate" and "score" around the three parts.
    """
    with timed("select"):
        prompts = pool.prompts(ids)
        requests = pool.requests(prompts)
    with timed("generate"):
        groups = rollouts.generate(requests, sampling)
    answered = [(p, g) for p, g in zip(prompts, groups, strict=True) if g is not None]
    with timed("score"):
        scored = iter(verifiers.score([p for p, _ in answered], [g for _, g in answered]))
    return [
        EngineError(f"prompt {prompt.id} was set aside: every engine that had it died")
        if group is None
        else next(scored)
        for prompt, group in zip(prompts, groups, strict=True)
    ]
