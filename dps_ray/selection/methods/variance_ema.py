"""A control: the running mean of the variance of rewards."""

import numpy as np
from numpy.typing import ArrayLike

from dps_ray.plain_settings import Share
from dps_ray.selection.methods.scored import Floats, ScoredSelector
from dps_ray.selection.outcomes import Outcomes
from dps_ray.selection.pool.index import Positions
from dps_ray.selection.selector import Context, Selector
from dps_ray.selection.settings import BeliefSettings, DrawSettings

UNSEEN = 2 / 3


class VarianceEMA(ScoredSelector):
    """The B prompts with the largest running mean of 4p(1 - p), p the share of right responses.

        v <- keep v + (1 - keep) 4p(1 - p) b      (rolled out only),   keep = 0.7,  score = v

    In a group of n responses 4p(1 - p) is on average 1 - 1/n of what the solve rate has. b = (1 - 1/k) / (1 - 1/n) makes smaller
    groups comparable with full ones, for which it is 1. (Groups that stop once they are mixed still lean to large p(1 - p).)

    A prompt never seen has v = 2/3, the mean of 4p(1 - p) over a uniform p: what Beta(1, 1) and DPS's 1/3
    say of it too, nothing. Then a prompt seen with p between 0.21 and 0.79 comes before new ones, any other
    after. At 1 none would ever come before a new one, and the method would be uniform until the pool has
    been seen once.

    State: v (8 bytes a prompt). Cost: O(N) a step; 10^6 prompts: 3 to 20 ms, by how many tie for the last
    place.
    """

    class Settings(DrawSettings, BeliefSettings):
        variance_decay: Share = 0.7
        """Weight of the past in the running mean of the reward's variance."""

    @classmethod
    def make(cls, ids: ArrayLike, settings: Settings, context: Context) -> Selector:
        selector = cls(ids, context.seed, settings.variance_decay, context.group_size)
        selector.temperature = settings.temperature
        return selector

    saved_settings = ("seed", "keep")
    saved_by_prompt = ("times", "variance")
    learns_from_counts = True

    def __init__(
        self, ids: ArrayLike, seed: int = 0, keep: float = 0.7, group_size: int = 8
    ) -> None:
        if not 0 <= keep <= 1:
            raise ValueError(f"keep must lie between 0 and 1, not {keep!r}")
        super().__init__(ids, seed)
        self.keep, self.group_size = float(keep), int(group_size)
        self._variance = np.full(len(self), UNSEEN)

    def variances(self, ids: ArrayLike) -> Floats:
        """v of each id: float64 (n,)."""
        return self._variance[self._index.positions(ids)]

    def learn(self, seen: Outcomes) -> None:
        rate, size = seen.successes / seen.responses, seen.responses
        # The variance of a single response is 0, whatever the rate.
        unbiased = ((self.group_size - 1) * size) / (self.group_size * np.maximum(size - 1, 1))
        past = self.keep * self._variance[seen.positions]
        self._variance[seen.positions] = past + (1 - self.keep) * 4 * rate * (1 - rate) * unbiased

    def weaken(self, positions: Positions, weight: float) -> None:
        past = weight * self._variance[positions]
        self._variance[positions] = past + (1 - weight) * UNSEEN

    def scores(self) -> Floats:
        return self._variance
