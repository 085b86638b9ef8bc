"""The probe: rolls out a uniform sample of the pool, to measure what uniform selection would find at this step."""

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
    """The observation of a probe and its cost."""

    found: Observation
    rollouts: int  # responses generated, including those of failed groups
    tokens: int  # of the scored groups' responses

    @property
    def partial(self) -> float:
        """The fraction of partial groups; NaN if no group was scored."""
        states = self.found.states
        return float(np.mean(states == PARTIAL)) if len(states) else np.nan


def drawn(ids: NDArray[np.int64], size: int, *, seed: int, step: int) -> NDArray[np.int64]:
    """The prompts of a step's probe: `size` of `ids` drawn uniformly, or all if there are fewer."""
    rng = np.random.default_rng([seed, step])
    return rng.choice(ids, min(size, len(ids)), replace=False)


def probe_of(answers: Sequence[ScoredGroup | DPSError], generated: int) -> Probe:
    """The probe made from the groups of its prompts. `generated`: responses generated for them."""
    scored = [answer for answer in answers if isinstance(answer, ScoredGroup)]
    return Probe(
        found=observation_of(scored),
        rollouts=generated,
        tokens=sum(r.generated for s in scored for r in s.group.responses),
    )
