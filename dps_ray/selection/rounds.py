"""How a group of responses is divided into rounds: how many a prompt gets first, and whether to go on after each round.

    rule = RoundRule((2, 2, 4), "mixed", 0.02, group_size=8)
    first = rule.first(prior)                                 responses of the first round of each prompt
    more = rule.next(prior, successes, responses)             responses of the next round; 0: the group is done

`prior` is the belief from before the batch (`BetaRates.of_predicted`). Both answers for a prompt depend on its own belief and
counts alone, so prompts can be asked about together or one by one, in any order, with the same result.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dps_ray.beliefs.beta_rates import BetaRates
from dps_ray.selection import adaptive_rounds

Counts = NDArray[np.int64]
Stop = Literal["mixed", "hopeless", "both"]


@dataclass(frozen=True)
class RoundRule:
    """The sizes of a group's rounds, and when to stop before the group is full.

    sizes:        responses of each round, with the sum `group_size`; "adaptive": as `adaptive_rounds` finds best
    stop:         mixed: once there are right and wrong responses. hopeless: once the chance that the rest of a full group makes
                  it mixed is below `least_chance`; mixed groups go on (adaptive: if that is worth its cost). both: either.
    least_chance: in [0, 1)
    group_size:   responses of a full group

    Raises ValueError for sizes with another sum, and for a first round of one response.
    """

    sizes: tuple[int, ...] | Literal["adaptive"]
    stop: Stop
    least_chance: float
    group_size: int

    def __post_init__(self) -> None:
        if self.group_size < 2:
            raise ValueError(f"a group of {self.group_size} is never mixed: write 2 or more")
        if not 0 <= self.least_chance < 1:
            raise ValueError(f"least_chance is {self.least_chance}: write a number in [0, 1)")
        if self.sizes == "adaptive":
            return
        if not self.sizes or min(self.sizes) < 1 or sum(self.sizes) != self.group_size:
            raise ValueError(
                f"rounds {list(self.sizes)} have {sum(self.sizes)} responses, and a group has {self.group_size}: "
                "write positive sizes with that sum"
            )
        if self.sizes[0] < 2:
            raise ValueError(
                f"the first of the rounds {list(self.sizes)} is a single response, which is never mixed: "
                "begin with 2 or more"
            )

    def first(self, prior: BetaRates) -> Counts:
        """Returns the responses of the first round of each prompt: int64 (n,), each 2 or more."""
        if self.sizes == "adaptive":
            none = np.zeros(len(prior.a), dtype=np.int64)
            return self._plan(prior).next(none, none)
        return np.full(len(prior.a), self.sizes[0], dtype=np.int64)

    def next(self, prior: BetaRates, successes: ArrayLike, responses: ArrayLike) -> Counts:
        """Returns the responses of the next round of each prompt, 0 where the group is done: int64 (n,).

        successes, responses: int (n,), right and scored responses of all rounds so far.
        """
        right = np.asarray(successes, dtype=np.int64)
        scored = np.asarray(responses, dtype=np.int64)
        if self.sizes == "adaptive":
            more = self._plan(prior).next(right, scored)
        else:
            ends = np.cumsum(self.sizes)
            following = np.searchsorted(ends, scored, side="right")
            more = ends[np.minimum(following, len(ends) - 1)] - scored
        more = np.maximum(more, 0)
        if self.stop in ("mixed", "both"):
            more[(right > 0) & (right < scored)] = 0
        if self.stop in ("hopeless", "both"):
            left = np.maximum(self.group_size - scored, 0)
            more[prior.chance_mixed(left, right, scored) < self.least_chance] = 0
        return more

    def _plan(self, prior: BetaRates) -> adaptive_rounds.Plan:
        a, b = (np.asarray(each, dtype=np.float64).tobytes() for each in (prior.a, prior.b))
        return _plan(a, b, self.group_size, self.stop != "hopeless")


@lru_cache(maxsize=1)  # a batch asks again after each round
def _plan(a: bytes, b: bytes, k: int, ends_mixed: bool) -> adaptive_rounds.Plan:
    """Returns the best plans of prompts with these beliefs, float64 (n,) each."""
    rates = np.frombuffer(a), np.frombuffer(b)
    known = np.ones(len(rates[0]), dtype=np.bool_)
    return adaptive_rounds.plan(BetaRates(*rates, known), k, ends_mixed=ends_mixed)
