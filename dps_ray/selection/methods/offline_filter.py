"""Offline filter: uniform sampling among the prompts that the start policy solves sometimes."""

import numpy as np
from numpy.typing import NDArray

from dps_ray.beliefs.settings import StateSettings
from dps_ray.plain_settings import Share
from dps_ray.selection.evidence import Evidence
from dps_ray.selection.methods.uniform import UniformSelector
from dps_ray.selection.settings import StartSettings


class OfflineFilter(UniformSelector):
    """Draws as `UniformSelector`, from the prompts that were kept before the run.

    The plain practice of many recipes: roll out every prompt a few times with the start policy, and drop those whose solve
    rate is 0 or 1. Dropped prompts never come back, also when the policy could learn from them later. Prompts that were not
    evaluated are dropped too.

    The responses of the evaluation count as rollouts of the run. The run filters its pool by `Settings.kept` and hands the
    selector the rest.
    """

    class Settings(StartSettings):
        least_rate: Share = 0.0
        """Prompts are kept whose solve rate in `selector.start` is above this."""
        most_rate: Share = 1.0
        """Prompts are kept whose solve rate in `selector.start` is below this."""

        @property
        def charges_start(self) -> bool:
            return True

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.least_rate >= self.most_rate:
                raise ValueError(
                    f"selector.least_rate={self.least_rate} and selector.most_rate={self.most_rate}: prompts are kept "
                    "whose solve rate is between them, so the first must be smaller"
                )

        def check(self, states: StateSettings) -> None:
            if self.start is None:
                raise ValueError(
                    "method=offline_filter filters by an evaluation of the start policy: run `python -m pipelines.evaluate "
                    "model=... data=... samples=4 folder=DIR` on the training data first, and set selector.start=DIR"
                )

        def kept(self, evidence: Evidence) -> NDArray[np.int64]:
            """Returns the ids of the prompts whose last group has a solve rate between the two settings, ascending."""
            last = evidence.newest()
            rates = last.rates()
            kept: NDArray[np.int64] = last.found.ids[
                (rates > self.least_rate) & (rates < self.most_rate)
            ]
            return kept
