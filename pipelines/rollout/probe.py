"""The probe: a uniform sample of the pool is rolled out, to see what uniform selection would find now."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dps_ray import PARTIAL
from dps_ray.beliefs.states import Observation
from dps_ray.errors import DPSError
from dps_ray.groups import ScoredGroup
from pipelines.rollout.batch import observation_of


@dataclass(frozen=True)
class Probe:
    """What was found, and what it cost: responses, those of failed groups included, and their tokens."""

    found: Observation
    rollouts: int
    tokens: int

    @property
    def partial(self) -> float:
        """Share of partial groups; NaN when no group was scored."""
        states = self.found.states
        return float(np.mean(states == PARTIAL)) if len(states) else np.nan


def drawn(ids: NDArray[np.int64], size: int, *, seed: int, step: int) -> NDArray[np.int64]:
    """The prompts of a step's probe: `size` of `ids`, or all if there are fewer."""
    rng = np.random.default_rng([seed, step])
    return rng.choice(ids, min(size, len(ids)), replace=False)


def probe_of(answers: Sequence[ScoredGroup | DPSError], k: int) -> Probe:
    scored = [answer for answer in answers if isinstance(answer, ScoredGroup)]
    return Probe(
        found=observation_of(scored),
        rollouts=len(answers) * k,
        tokens=sum(len(r.tokens) for s in scored for r in s.group.responses),
    )
