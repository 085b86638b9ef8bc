"""Uniform sampling without replacement: every prompt once in a seeded order, then all again in another."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dps_ray.beliefs.states import Observation, check_states
from dps_ray.hashing import as_ids, hash_ids, hash_key, unhash_ids
from dps_ray.selection.choice import Selection, check_size, merge
from dps_ray.selection.pool.index import PromptIndex
from dps_ray.selection.pool.lazy_order import LazyOrder
from dps_ray.selection.selector import Context, Selector, check_settings
from dps_ray.selection.settings import SelectorSettings


class UniformSelector:
    """Draws by (times sampled, hash of (seed, times sampled, id)). Predicts nothing, learns nothing.

    Prompts sampled equally often form a *level*, in a random order of its own. A batch is the next of the
    lowest level, so an epoch passes through the whole pool; a prompt whose rollout failed keeps its level
    and comes again. For any split over shards, `dps_ray.merge` gives the same batches.
    """

    class Settings(SelectorSettings):
        pass

    @classmethod
    def make(cls, ids: ArrayLike, settings: Settings, context: Context) -> Selector:
        """Returns the selector over these prompts; see `Selector`."""
        return cls(ids, context.seed)

    def __init__(self, ids: ArrayLike, seed: int = 0) -> None:
        self._seed = int(seed)
        self._index = PromptIndex(ids, self._seed)
        self._times = np.zeros(len(self), dtype=np.int32)
        self._levels: dict[int, LazyOrder] = {}
        self._join_levels(self._index.ids(np.arange(len(self))), self._times)

    def __len__(self) -> int:
        return len(self._index)

    def select(self, size: int, exclude: ArrayLike | None = None) -> Selection:
        """The next `size` prompts, none of them in `exclude`; score 0 for all, predicted NaN.

        Raises ValueError when fewer than `size` are left to choose from.
        """
        excluded = as_ids([] if exclude is None else exclude)
        self._index.distinct_positions(excluded)
        check_size(size, len(self), len(excluded))
        parts, missing = [], size
        for level in sorted(self._levels) or [0]:
            parts.append(self._next_of(level, missing, excluded))
            missing -= len(parts[-1].ids)
            if not missing:
                break
        return merge(parts, size)

    def _next_of(self, level: int, size: int, excluded: NDArray[np.int64]) -> Selection:
        """The next `size` prompts of a level, or all where there are fewer."""
        order = self._levels.get(level, LazyOrder(np.uint64)).smallest(size + len(excluded))
        ids = unhash_ids(order, self._key(level))
        free = np.flatnonzero(~np.isin(ids, excluded))[:size]
        return Selection(
            ids=ids[free],
            predicted=np.full((len(free), 3), np.nan),
            score=np.zeros(len(free)),
            times_sampled=np.full(len(free), level),
            tie=order[free],
            behind=np.zeros(len(free)),
        )

    def observe(self, mine: Observation, whole: Observation | None = None) -> None:
        """These prompts were rolled out; each moves up a level. The states must be states, and are not used."""
        positions = self._index.distinct_positions(mine.ids)
        check_states(mine.states, len(positions))
        ids, times = self._index.ids(positions), self._times[positions]
        for level in np.unique(times):
            self._levels[level].discard(hash_ids(ids[times == level], self._key(level)))
            if not len(self._levels[level]):
                del self._levels[level]
        self._times[positions] += 1
        self._join_levels(ids, times + 1)

    def times_sampled(self, ids: ArrayLike) -> NDArray[np.int64]:
        """At how many steps each id was observed: int64 (n,)."""
        return self._times[self._index.positions(ids)].astype(np.int64)

    def metrics(self) -> dict[str, float]:
        """How many prompts were ever sampled."""
        never = len(self._levels[0]) if 0 in self._levels else 0
        return {"beliefs/prompts_seen": float(len(self) - never)}

    def snapshot(self) -> dict[str, Any]:
        """The seed, and how often which prompts were sampled."""
        seen = np.flatnonzero(self._times)
        return {
            "seed": self._seed,
            "seen_ids": self._index.ids(seen),
            "seen_times": self._times[seen],
        }

    def load_state(self, snapshot: Mapping[str, Any]) -> None:
        """Goes on from a snapshot; see `Selector.load_state`."""
        check_settings(snapshot, {"seed": self._seed})
        seen = self._index.distinct_positions(snapshot["seen_ids"])
        self._times[seen] = snapshot["seen_times"]
        self._levels = {}
        self._join_levels(self._index.ids(np.arange(len(self))), self._times)

    def _join_levels(self, ids: NDArray[np.int64], times: NDArray[np.int32]) -> None:
        for level in np.unique(times).tolist():
            order = self._levels.setdefault(level, LazyOrder(np.uint64))
            order.add(hash_ids(ids[times == level], self._key(level)))

    def _key(self, level: int) -> int:
        return hash_key(self._seed, int(level))
