"""The ceiling, in simulation: selection by the true success rates."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dps_ray.selection.methods.scored import Floats, ScoredSelector
from dps_ray.selection.outcomes import Outcomes
from dps_ray.selection.pool.index import Positions


class Oracle(ScoredSelector):
    """The B prompts whose groups are truly most likely mixed: score = 1 - p^k - (1 - p)^k.

    State: p, given by `set_rates` (0.5 before). A snapshot holds p of every prompt, seen or not.
    Cost: O(N) a step; 10^6 prompts: 3 ms, and 50 ms to take new rates.

    Args:
        ids, seed: see `ScoredSelector`.
        group_size: k, responses to a prompt.
    """

    saved_settings = ("seed", "group_size")

    def __init__(self, ids: ArrayLike, group_size: int = 8, seed: int = 0) -> None:
        super().__init__(ids, seed)
        self.group_size = int(group_size)
        self._given = self._index.positions(ids)  # where the ids stand, in the order given
        self._rate = np.full(len(self), 0.5)
        self._score = np.zeros(len(self))
        self._rescore(self._given)

    def set_rates(self, rates: ArrayLike) -> None:
        """The success rates from now on: float (N,) in [0, 1], in the order in which the ids were given.

        Raises ValueError, and changes nothing, when they are not.
        """
        given = np.asarray(rates, dtype=np.float64)
        if given.shape != (len(self),) or not ((given >= 0) & (given <= 1)).all():
            raise ValueError(f"rates must be {len(self)} numbers between 0 and 1, one for each id")
        self._rate[self._given] = given
        self._rescore(np.arange(len(self)))

    def _rescore(self, positions: Positions) -> None:
        self._score[positions] = np.round(self._predicted(positions)[:, 1], 12)  # as p, so 1 - p

    def _predicted(self, positions: Positions) -> Floats:
        rate = self._rate[positions]
        wrong, right = (1 - rate) ** self.group_size, rate**self.group_size
        return np.stack([wrong, 1 - (wrong + right), right], axis=-1)

    def learn(self, seen: Outcomes) -> None:
        """Learns nothing: the true rates are given."""

    def scores(self) -> Floats:
        return self._score

    def snapshot(self) -> dict[str, Any]:
        everyone = np.arange(len(self))
        return {
            **super().snapshot(),
            "rated_ids": self._index.ids(everyone),
            "rated_rates": self._rate.copy(),
        }

    def load_state(self, snapshot: Mapping[str, Any]) -> None:
        super().load_state(snapshot)
        rated = self._index.distinct_positions(snapshot["rated_ids"])
        self._rate[rated] = snapshot["rated_rates"]
        self._rescore(rated)
