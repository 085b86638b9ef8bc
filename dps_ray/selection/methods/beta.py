"""A Beta distribution over each prompt's success rate, and what it says of a group of responses."""

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dps_ray.beliefs.beta_rates import group_states
from dps_ray.plain_settings import Share
from dps_ray.selection.methods.scored import Floats, ScoredSelector
from dps_ray.selection.outcomes import Outcomes
from dps_ray.selection.pool.index import Positions
from dps_ray.selection.selector import Context, Selector
from dps_ray.selection.settings import BeliefSettings


class BetaSelector(ScoredSelector):
    """Beta(a, b) by prompt, from Beta(1, 1); a prompt that is not rolled out keeps its own.

        a <- l a + (1 - l) + successes,  b <- l b + (1 - l) + failures     (rolled out only)

    Args:
        ids, seed: see `ScoredSelector`.
        decay: l in [0, 1]; 1 forgets nothing.
        group_size: k, responses to a prompt, for what is predicted of it.
    """

    class Settings(BeliefSettings):
        beta_decay: Share = 0.5
        """Weight of the past in the Beta's counts; 1 never forgets."""

    @classmethod
    def make(cls, ids: ArrayLike, settings: Settings, context: Context) -> Selector:
        return cls(ids, context.seed, settings.beta_decay, context.group_size)

    saved_settings: ClassVar[tuple[str, ...]] = ("seed", "decay", "group_size")
    saved_by_prompt = ("times", "a", "b")
    learns_from_counts = True

    def __init__(
        self, ids: ArrayLike, seed: int = 0, decay: float = 0.5, group_size: int = 8
    ) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"decay must lie between 0 and 1, not {decay!r}")
        if group_size < 2:
            raise ValueError(
                f"a group of {group_size} is never mixed: group_size must be 2 or more"
            )
        super().__init__(ids, seed)
        self.decay, self.group_size = float(decay), int(group_size)
        self._a, self._b = np.ones(len(self)), np.ones(len(self))

    def learn(self, seen: Outcomes) -> None:
        for parameter, count in (
            (self._a, seen.successes),
            (self._b, seen.responses - seen.successes),
        ):
            kept = self.decay * parameter[seen.positions]
            parameter[seen.positions] = kept + (1 - self.decay) + count

    def weaken(self, positions: Positions, weight: float) -> None:
        for parameter in (self._a, self._b):
            parameter[positions] = (1 - weight) + weight * parameter[positions]

    def parameters(self, ids: ArrayLike) -> NDArray[np.float64]:
        """a and b of each id: float64 (n, 2)."""
        positions = self._index.positions(ids)
        return np.stack([self._a[positions], self._b[positions]], axis=-1)

    def predicted(self, ids: ArrayLike) -> Floats:
        """P(unsolved), P(partial), P(solved) of the next group of each id: float64 (n, 3)."""
        return self._predicted(self._index.positions(ids))

    def _predicted(self, positions: Positions) -> Floats:
        return group_states(self._a[positions], self._b[positions], self.group_size)
