"""How much gradient a prompt's next group is expected to carry. Pure functions over arrays.

Which groups carry gradient depends on the objective. The measure is the mean squared advantage of a group's responses,
E[A^2]: it is 0 for a group that teaches nothing. A response has reward r, 1 if it is right and 0 if it is wrong, the k
responses to a prompt are independent given its solve rate p, and p has the distribution that is believed. Then

    score      advantage A                        E[A^2]
    partial    (r - group mean) / group deviation  (k - 1)/k P(partial),  P(partial) = E[1 - p^k - (1 - p)^k]
    variance   r - group mean                      (k - 1)/k E[p (1 - p)]
               r - mean of the k - 1 others        k/(k - 1) E[p (1 - p)]
    batch      r - b, b the mean of the batch      E[(r - b)^2] = E[p] (1 - 2 b) + b^2
    surprise   r - v, v = E[p] of a critic         E[p] (1 - E[p]) = E[p (1 - p)] + Var(p)

The group deviation is that of a sample (divisor k - 1), so that the squares of a partial group sum to k - 1, whatever its rewards.
Factors that depend on k alone do not change a ranking and are left out. All scores but the first are multiplied by 4: a prompt
that is known to be solved half of the time has 1. Other assumptions: the batch is so large that its mean b does not depend on a
single response; the critic knows what the belief knows. docs/method.md says which objective has which advantage, and where
E[A^2] misleads.

Scores but the first depend on the belief by E[p] and E[p^2] alone. Those of a belief over states are the moments of the Beta
distribution that it stands for (`dps_ray.beliefs.beta_rates`). Everything is computed prompt by prompt, so its bits do not depend on
the prompts beside it.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np
from numpy.typing import NDArray

from dps_ray.beliefs.beta_rates import BetaRates
from dps_ray.beliefs.rates import Grid, group_states, over_bins
from dps_ray.beliefs.states import PARTIAL, Observation

Floats = NDArray[np.float64]
Score = Literal["partial", "variance", "batch", "surprise"]

_DECIMALS = 9  # of Beta moments: equal histories score alike, in whatever order a sum was taken


def score_of(baseline: str, scale: str) -> Score:
    """The score with the squared advantages of an objective, by `objective.baseline` and `objective.scale`."""
    if baseline == "batch":
        return "batch"
    if baseline == "critic":
        return "surprise"
    return "partial" if scale == "group" else "variance"


class Moments(NamedTuple):
    """Of the distribution that is believed of each prompt's solve rate: E[p] and E[p^2], float64 (n,) each."""

    first: Floats
    second: Floats


def moments_of_states(predicted: Floats, group_size: int) -> Moments:
    """Returns the moments of the Beta distributions for which groups of this size have these states.

    predicted: (3, n), P(unsolved), P(partial), P(solved).
    """
    rates = BetaRates.of_predicted(predicted.T, group_size)
    size = rates.a + rates.b
    first = rates.a / size
    return Moments(first, first * ((rates.a + 1) / (size + 1)))


def moments_of_rates(grid: Grid, belief: Floats) -> Moments:
    """Returns the moments of beliefs over the bins of a grid: (K, n)."""
    rates = grid.rates[:, None]
    return Moments(over_bins(belief * rates), over_bins(belief * rates**2))


def squared_advantage(score: Score, moments: Moments, batch_mean: float = 0.5) -> Floats:
    """Returns 4 E[A^2], without factors that depend on the group's size alone: float64 (n,).

    score: any but `partial`, which does not follow from two moments. batch_mean: b, for `batch`.

    Raises ValueError for another score.
    """
    first, second = moments
    if score == "variance":
        return 4 * (first - second)
    if score == "batch":
        # Exactly alike for all prompts when b is a half.
        return 4 * (first * (1 - 2 * batch_mean) + batch_mean**2)
    if score == "surprise":
        return 4 * first * (1 - first)
    raise ValueError(f"score={score!r}: write 'variance', 'batch' or 'surprise'")


class Signal(NamedTuple):
    """What a selector ranks prompts by.

    score:      see the top of this file
    group_size: k, responses of the next group
    batch_mean: b, the share of right responses in the step before; .5 until one was observed
    """

    score: Score = "partial"
    group_size: int = 8
    batch_mean: float = 0.5

    @classmethod
    def of(cls, score: str, group_size: int) -> "Signal":
        """Returns the signal by the name of its score.

        Raises ValueError for an unknown score and for groups of fewer than 2.
        """
        if score not in get_args(Score):
            *names, last = map(repr, get_args(Score))
            raise ValueError(f"score={score!r}: write {', '.join(names)} or {last}")
        if group_size < 2:
            raise ValueError(
                f"group_size={group_size!r}: a group is mixed from 2 responses on; write 2 or more"
            )
        return cls(cast(Score, score), int(group_size))

    def of_states(self, predicted: Floats) -> Floats:
        """Returns the scores of prompts with these predicted states: (3, n) -> (n,)."""
        if self.score == "partial":
            partial: Floats = predicted[PARTIAL]
            return partial
        moments = moments_of_states(predicted, self.group_size)
        return np.round(squared_advantage(self.score, moments, self.batch_mean), _DECIMALS)

    def of_rates(self, grid: Grid, belief: Floats) -> Floats:
        """Returns the scores of prompts with these beliefs over a grid of rates: (K, n) -> (n,)."""
        if self.score == "partial":
            partial: Floats = group_states(grid, belief, self.group_size)[PARTIAL]
            return partial
        return squared_advantage(self.score, moments_of_rates(grid, belief), self.batch_mean)

    def after(self, whole: Observation) -> "Signal":
        """Returns the signal after a step, which all shards are told. Only `batch` depends on it.

        Raises ValueError when the score needs counts and the step has none.
        """
        if self.score != "batch" or not len(whole.ids):
            return self
        right, scored = whole.successes, whole.responses
        if right is None or scored is None or (np.asarray(scored) < 1).any():
            raise ValueError(
                "score='batch' needs the mean of the batch, and a step came with states alone: give successes and "
                "responses, or write score='partial'"
            )
        total = int(np.asarray(scored, dtype=np.int64).sum())
        return self._replace(batch_mean=int(np.asarray(right, dtype=np.int64).sum()) / total)

    def snapshot(self) -> dict[str, Any]:
        """Returns what a snapshot holds. Nothing of `partial`, as in those of earlier versions."""
        if self.score == "partial":
            return {}
        return {"score": self.score, "batch_mean": self.batch_mean}

    def load_state(self, snapshot: Mapping[str, Any]) -> "Signal":
        """Returns the signal as it was when the snapshot was taken.

        Raises ValueError when that had another score.
        """
        score = str(snapshot.get("score", "partial"))
        if score != self.score:
            raise ValueError(
                f"the snapshot was taken with score={score}, and this selector has {self.score}: make it with the same "
                "settings"
            )
        return self._replace(batch_mean=float(snapshot.get("batch_mean", self.batch_mean)))
