"""DPS from rewards: whether the rewards of a prompt's next group will differ, by their mean and variance so far."""

import numpy as np
from numpy.typing import ArrayLike

from dps_ray.beliefs import moments
from dps_ray.beliefs.moments import Moments
from dps_ray.selection.methods.scored import Floats, ScoredSelector
from dps_ray.selection.outcomes import Outcomes
from dps_ray.selection.pool.index import Positions

_DECIMALS = 12  # equal histories score alike, in whatever order a sum was taken


class RewardMoments(ScoredSelector):
    """The B prompts whose rewards are likeliest to vary in the next group, under the model of `dps_ray.beliefs.moments`.

        score = P(the standard deviation of k rewards is above eps)

    What is known of a prompt is forgotten step by step, as in DPS, until it is like one never seen. First
    come those that varied when last seen, then those never seen or long ago, then those that did not.

    State: four numbers and a step (40 bytes a prompt). Cost: O(N) a step; 10^6 prompts of which 10^4 were
    seen, 10 ms; 10^5, 60 ms.

    Args:
        ids, seed: see `ScoredSelector`.
        decay: lambda in [0, 1], the part of what is known that is kept from step to step.
        group_size: k, responses of the next group.
        least_std: eps, the deviation above which rewards differ.
        middle: the mean reward above which a group that does not vary is solved.
    """

    saved_settings = ("seed", "decay", "group_size", "least_std", "middle")
    saved_by_prompt = ("times", "weight", "mean", "freedom", "squares", "at")
    learns_from_counts = True

    def __init__(
        self,
        ids: ArrayLike,
        seed: int = 0,
        *,
        decay: float = 0.7,
        group_size: int = 8,
        least_std: float = 0.05,
        middle: float = 0.5,
    ) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"decay must lie between 0 and 1, not {decay!r}")
        if group_size < 2:
            raise ValueError(f"a group of {group_size} never varies: group_size must be 2 or more")
        if not 0 < least_std < np.inf:
            raise ValueError(f"least_std must be positive and finite, not {least_std!r}")
        super().__init__(ids, seed)
        self.decay, self.group_size = float(decay), int(group_size)
        self.least_std, self.middle = float(least_std), float(middle)
        self._weight, self._mean, self._freedom, self._squares = moments.nothing(len(self))
        self._at = np.zeros(len(self), dtype=np.int32)  # step of the last visit

    def predicted(self, ids: ArrayLike) -> Floats:
        """P(unsolved), P(partial), P(solved) at the next step: float64 (n, 3)."""
        return self._predicted(self._index.positions(ids))

    def _known(self, positions: Positions) -> Moments:
        """What is left at the present step of what was seen of these prompts."""
        kept = self.decay ** (self.step - self._at[positions]).astype(np.float64)
        columns = (self._weight, self._mean, self._freedom, self._squares)
        return moments.forget(Moments(*(column[positions] for column in columns)), kept)

    def _check(self, seen: Outcomes) -> None:
        told = seen.whole.means is not None and seen.whole.deviations is not None
        if len(seen.positions) and not told:
            raise ValueError(
                "RewardMoments was not told the rewards: give the observation means and deviations"
            )

    def learn(self, seen: Outcomes) -> None:
        mine, whole = seen.positions, seen.whole
        if whole.means is None or whole.deviations is None:
            return  # nothing was observed
        rows = np.searchsorted(whole.ids, self._index.ids(mine))
        learned = moments.learn(
            self._known(mine), seen.responses, whole.means[rows], whole.deviations[rows]
        )
        self._weight[mine], self._mean[mine], self._freedom[mine], self._squares[mine] = learned
        self._at[mine] = self.step

    def weaken(self, positions: Positions, weight: float) -> None:
        for sums in (self._weight, self._freedom, self._squares):
            sums[positions] *= weight
        self._at[positions] -= self.step

    def scores(self) -> Floats:
        scores = np.empty(len(self))
        scores.fill(self._states(moments.nothing(1))[1, 0])
        seen = self._ever_observed()
        scores[seen] = self._states(self._known(seen))[1]
        return np.round(scores, _DECIMALS)

    def _states(self, known: Moments) -> Floats:
        return moments.group_states(known, self.group_size, self.least_std, self.middle)

    def _predicted(self, positions: Positions) -> Floats:
        return np.ascontiguousarray(self._states(self._known(positions)).T)
