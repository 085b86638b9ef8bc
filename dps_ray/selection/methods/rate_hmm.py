"""DPS from counts: a hidden Markov model of each prompt's solve rate, its moves learned from all prompts."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dps_ray.beliefs import rates
from dps_ray.beliefs.rates import Pool
from dps_ray.selection.methods.scored import Floats, ScoredSelector
from dps_ray.selection.outcomes import Outcomes
from dps_ray.selection.pool.index import Positions
from dps_ray.selection.signal import Score, Signal

_BINS = 15
_DECIMALS = 12  # equal histories score alike, in whatever order a sum was taken


class RateHMM(ScoredSelector):
    """The B prompts whose next group is likeliest to be mixed, under the model of `dps_ray.beliefs.rates`.

        score = sum over bins of mu (1 - p^k - (1 - p)^k),    or another of `dps_ray.selection.signal`

    Prompts never seen share one belief, that of what others were found to be at their first visits.

    State: the posterior over 15 bins (120 bytes) of each prompt ever seen, in every shard alike, and as much
    again for what it predicts. Cost: O(N) a step for the scores and O(seen) to move the beliefs: 10^6 prompts
    of which 10^4 were seen, 5 ms; 10^5, 43 ms.

    Args:
        ids, seed: see `ScoredSelector`.
        decay: lambda in [0, 1], the part of the counted moves that is kept from step to step.
        group_size: k, responses of the next group.
        score: what prompts are ranked by.
    """

    saved_settings = ("seed", "decay", "group_size")
    learns_from_counts = True

    def __init__(
        self,
        ids: ArrayLike,
        seed: int = 0,
        *,
        decay: float = 0.7,
        group_size: int = 8,
        score: Score = "partial",
    ) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"decay must lie between 0 and 1, not {decay!r}")
        self._signal = Signal.of(score, group_size)
        super().__init__(ids, seed)
        self.decay, self.group_size = float(decay), int(group_size)
        self._grid = rates.rate_grid(_BINS)
        self._pool = rates.initial_pool(_BINS)
        # Of the prompts ever seen, ascending by id; of all shards, as all of them teach how rates move.
        self._visited = np.empty(0, dtype=np.int64)
        self._places = np.empty(0, dtype=np.int64)  # position, -1 in another shard
        self._posterior: Floats = np.empty((_BINS, 0))
        self._coming: Floats  # of the next step
        self._fresh: Floats  # (15, 1), of prompts never seen
        self._predict()

    def predicted(self, ids: ArrayLike) -> Floats:
        """P(unsolved), P(partial), P(solved) at the next step: float64 (n, 3)."""
        return self._predicted(self._index.positions(ids))

    def learn(self, seen: Outcomes) -> None:
        whole = seen.whole
        self._signal = self._signal.after(whole)
        assert whole.successes is not None
        assert whole.responses is not None
        new = ~np.isin(whole.ids, self._visited)
        self._add(whole.ids[new])
        self._places[self._rows(self._index.ids(seen.positions))] = seen.positions
        rows = self._rows(whole.ids)
        before, predicted = self._posterior[:, rows], self._coming[:, rows]
        likely = rates.likelihood(self._grid, whole.successes, whole.responses)
        filtered = rates.condition(predicted, likely)
        again = [each[:, ~new] for each in (before, predicted, filtered)]
        moves = rates.count_moves(self._transitions, *again)
        self._pool = rates.learn(
            self._pool,
            moves=rates.pooled_sum(moves),
            found=rates.pooled_sum(filtered[:, new]),
            first=int(np.count_nonzero(new)),
            decay=self.decay,
        )
        self._posterior = self._coming
        self._posterior[:, rows] = filtered
        self._predict()

    def weaken(self, positions: Positions, weight: float) -> None:
        """See `ScoredSelector.weaken`. Rates of first visits count as many prompts as they do after many steps, at most."""
        fresh = (1 - weight) * rates.initial_pool(_BINS).fresh + weight * self._pool.fresh
        fresh *= min(1.0, rates.MEMORY / fresh.sum())
        self._pool = Pool(weight * self._pool.moves, fresh)
        self._posterior = (1 - weight) * rates.fresh_belief(self._pool) + weight * self._posterior
        self._predict()

    def _add(self, ids: NDArray[np.int64]) -> None:
        """Gives these, ascending and never seen, a row each, with what was believed of them."""
        at = self._rows(ids)
        fresh = self._fresh.repeat(len(ids), axis=1)
        self._visited = np.insert(self._visited, at, ids)
        self._places = np.insert(self._places, at, -1)
        self._posterior = np.insert(self._posterior, at, fresh, axis=1)
        self._coming = np.insert(self._coming, at, fresh, axis=1)

    def _rows(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where these ids are among those visited, or would be put."""
        return np.searchsorted(self._visited, ids)

    def _predict(self) -> None:
        """What posteriors and pool say of the next step."""
        self._transitions = rates.transitions(self._pool)
        self._coming = rates.predict(self._transitions, self._posterior)
        self._fresh = rates.fresh_belief(self._pool)
        self._score = np.empty(len(self))
        self._score.fill(self._scores_of(self._fresh)[0])
        mine = np.flatnonzero(self._places >= 0)
        self._score[self._places[mine]] = self._scores_of(self._coming[:, mine])

    def _scores_of(self, belief: Floats) -> Floats:
        scores: Floats = np.round(self._signal.of_rates(self._grid, belief), _DECIMALS)
        return scores

    def scores(self) -> Floats:
        return self._score

    def _predicted(self, positions: Positions) -> Floats:
        belief = self._fresh.repeat(len(positions), axis=1)
        seen = np.flatnonzero(self._begun[positions] | (self._times[positions] > 0))
        belief[:, seen] = self._coming[:, self._rows(self._index.ids(positions[seen]))]
        return np.ascontiguousarray(rates.group_states(self._grid, belief, self.group_size).T)

    def snapshot(self) -> dict[str, Any]:
        return {
            **super().snapshot(),
            **self._signal.snapshot(),
            **self._pool._asdict(),
            "visited": self._visited.copy(),
            "posterior": self._posterior.copy(),
        }

    def load_state(self, snapshot: Mapping[str, Any]) -> None:
        super().load_state(snapshot)
        self._signal = self._signal.load_state(snapshot)
        self._pool = Pool(*(np.array(snapshot[name]) for name in Pool._fields))
        self._visited = np.array(snapshot["visited"])
        self._posterior = np.array(snapshot["posterior"])
        positions, here = self._index.find(self._visited)
        self._places = np.where(here, positions, -1)
        self._predict()
