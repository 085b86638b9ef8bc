"""MaPP-PS: prompts in proportion to the probability that their next group is mixed."""

import numpy as np
from numpy.typing import ArrayLike

from dps_ray.beliefs.beta_rates import group_states
from dps_ray.hashing import hash_key
from dps_ray.selection.draws import uniforms
from dps_ray.selection.methods.beta import BetaSelector
from dps_ray.selection.methods.scored import Floats
from dps_ray.selection.pool.index import Positions

_DECIMALS = 12  # (a, b) and (b, a) weigh the same on paper, and here too once rounded


class MaPP(BetaSelector):
    """MaPP-PS: sampling without replacement, weighted by P(a group of k is mixed) under the Beta.

        w = 1 - [B(a + k, b) + B(a, b + k)] / B(a, b),   score = log(u) / w,  u ~ U(0, 1) by (seed, step, id)

    The B largest scores are a weighted sample without replacement (Efraimidis & Spirakis 2006; the same
    order as log w + Gumbel noise). `greedy`: score = w, no noise. A prompt never seen has
    w = 1 - 2 / (k + 1). Update and state as `BetaSelector`, and w: 24 bytes a prompt. decay 0.5.

    Cost: O(N) a step; 10^6 prompts: 9 ms.
    """

    class Settings(BetaSelector.Settings):
        pass

    saved_settings = ("seed", "decay", "group_size", "greedy")

    def __init__(
        self,
        ids: ArrayLike,
        seed: int = 0,
        decay: float = 0.5,
        group_size: int = 8,
        greedy: bool = False,
    ) -> None:
        super().__init__(ids, seed, decay, group_size)
        self.greedy = bool(greedy)
        self._weight = np.empty(len(self))
        self._weight.fill(self._weight_of(np.ones(1), np.ones(1))[0])

    def weights(self, ids: ArrayLike) -> Floats:
        """w of each id: float64 (n,)."""
        return self._weight[self._index.positions(ids)]

    def _weight_of(self, a: Floats, b: Floats) -> Floats:
        return np.round(group_states(a, b, self.group_size)[:, 1], _DECIMALS)

    def _rescore(self, positions: Positions) -> None:
        self._weight[positions] = self._weight_of(self._a[positions], self._b[positions])

    def scores(self) -> Floats:
        if self.greedy:
            return self._weight
        drawn = uniforms(self._ties, hash_key(self.seed, self.step))
        np.log(drawn, out=drawn)
        drawn /= np.maximum(self._weight, 10.0**-_DECIMALS)
        return drawn
