"""The prompts of each cluster that wait to be tried, in a ring: never tried before, or long ago.

A cluster's prompts stand in a ring in the order of their ranks, which is random and fixed. They are taken
from the head on, so all are tried once before one comes again; a prompt that was tried is *away* for a while,
and comes back to its place. One that was passed over, as when its rollout failed, is *behind*, and comes
first from then on.

All shards know alike who is away and who is behind, so they agree on who of the whole pool is the first to
come, the second, and so on; a shard has the prompts of its own to it.
"""

import numpy as np
from numpy.typing import NDArray

from dps_ray.selection.clusters import Clusters
from dps_ray.selection.pool.index import Positions

Keys = NDArray[np.int64]
Labels = NDArray[np.integer]

_RANK_BITS = 32


class Waiting:
    """Who waits. A prompt's *key* is its cluster and its rank there; prompts of this shard have positions too,
    in the order of their seeded hash.

    sizes:  int64 (C,), prompts of the whole pool in each cluster
    counts: int64 (C,), how many of them wait
    laps:   int64 (C,), how often each ring was passed through
    here:   int64 (C,), prompts of this shard in each cluster
    labels, ranks: int32 (n,), of the prompts of this shard, by position
    """

    def __init__(self, clusters: Clusters) -> None:
        self.labels, self.ranks, self.sizes = clusters
        self.counts, self.laps = clusters.sizes.copy(), np.zeros_like(clusters.sizes)
        self.here = np.bincount(clusters.labels, minlength=len(clusters.sizes))
        # Ranks follow the hash, and so do positions.
        self._positions = np.argsort(clusters.labels, kind="stable").astype(np.int32)
        self._mine = keys_of(clusters.labels, clusters.ranks)[self._positions]
        self._heads = np.zeros_like(clusters.sizes)  # the rank from which on each is taken
        self._away = np.empty(0, dtype=np.int64)
        self._behind = np.empty(0, dtype=np.int64)
        self._note_skipped()

    @property
    def nbytes(self) -> int:
        arrays = (self._mine, self._positions, self.labels, self.ranks, self._away)
        return sum(array.nbytes for array in arrays)

    def find(self, labels: Labels, numbers: NDArray[np.integer]) -> tuple[Keys, NDArray[np.int64]]:
        """Who of these clusters is the `numbers`-th to come, below `counts`: keys, and the laps they stand in."""
        first, last = (np.searchsorted(self._behind, keys_of(labels + i, 0)) for i in (0, 1))
        late = numbers < last - first
        # Who is away or behind is skipped. Skipped places, less how many were skipped before, ascend.
        beyond = np.maximum(numbers - (last - first), 0)
        begin = np.searchsorted(self._skipped, keys_of(labels, 0))
        skipped = np.searchsorted(self._skipped, keys_of(labels, beyond), side="right") - begin
        places = self._heads[labels] + beyond + skipped
        sizes = np.maximum(self.sizes[labels], 1)
        keys = keys_of(labels, places % sizes)
        if late.any():
            keys[late] = self._behind[first[late] + numbers[late]]
        return keys, self.laps_of(keys, late)

    def laps_of(self, keys: Keys, late: NDArray[np.bool_] | bool = False) -> NDArray[np.int64]:
        """In which lap each of these waits, or would if it was put back; late: whether it is behind."""
        labels, ranks = keys >> _RANK_BITS, keys & ((1 << _RANK_BITS) - 1)
        laps: NDArray[np.int64] = self.laps[labels] + (ranks < self._heads[labels]) - late
        return laps

    def here_at(self, keys: Keys) -> Positions:
        """The positions of these prompts, -1 for those of other shards: int64 (n,)."""
        found = np.full(len(keys), -1, dtype=np.int64)
        if len(self._mine):
            places = np.minimum(np.searchsorted(self._mine, keys), len(self._mine) - 1)
            mine = self._mine[places] == keys
            found[mine] = self._positions[places[mine]]
        return found

    def take(self, keys: Keys) -> NDArray[np.int64]:
        """These prompts, who waited, are tried: they are away. Returns the laps that they waited in."""
        late = np.isin(keys, self._behind)
        waited_in = self.laps_of(keys, late)
        from_ring = keys[~late]
        self._behind = np.setdiff1d(self._behind, keys, assume_unique=True)
        self._away = np.union1d(self._away, keys[late])
        self._note_skipped()
        # As many from the head on are passed, and of these stay behind who was not taken.
        touched, taken = np.unique(from_ring >> _RANK_BITS, return_counts=True)
        rings = touched.repeat(taken)
        start = np.searchsorted(self._behind, keys_of(touched, 0))
        behind = np.searchsorted(self._behind, keys_of(touched + 1, 0)) - start
        numbers = np.arange(len(rings)) - (taken.cumsum() - taken - behind).repeat(taken)
        passed, laps = self.find(rings, numbers)
        ends = taken.cumsum() - 1
        past = (passed[ends] & ((1 << _RANK_BITS) - 1)) + 1
        self._heads[touched], self.laps[touched] = past % self.sizes[touched], laps[ends]
        self.laps[touched] += past // self.sizes[touched]
        self._behind = np.union1d(self._behind, np.setdiff1d(passed, keys))
        self._away = np.union1d(self._away, keys)
        self.counts -= np.bincount(keys >> _RANK_BITS, minlength=len(self.counts))
        self._note_skipped()
        return waited_in

    def put_back(self, keys: Keys) -> None:
        """These come back to their places."""
        self._away = np.setdiff1d(self._away, keys, assume_unique=True)
        self.counts += np.bincount(keys >> _RANK_BITS, minlength=len(self.counts))
        self._note_skipped()

    def _note_skipped(self) -> None:
        """The places of who is away or behind, in order from the head of each ring, less how many of them
        come before, with the cluster in front: ascending."""
        keys = np.concatenate([self._away, self._behind])
        labels, ranks = keys >> _RANK_BITS, keys & ((1 << _RANK_BITS) - 1)
        places = np.sort(keys_of(labels, (ranks - self._heads[labels]) % self.sizes[labels]))
        labels = places >> _RANK_BITS
        before = np.arange(len(places)) - np.searchsorted(labels, labels)
        self._skipped = places - before

    # --- keeping ----------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, NDArray[np.int64]]:
        return {
            "heads": self._heads.copy(),
            "laps": self.laps.copy(),
            "behind": self._behind.copy(),
            "away": self._away.copy(),
        }

    def load_state(self, heads: Keys, laps: Keys, behind: Keys, away: Keys) -> None:
        """Goes on from a snapshot."""
        self._heads, self.laps = np.array(heads), np.array(laps)
        self._behind, self._away = np.array(behind), np.array(away)
        self.counts = self.sizes - np.bincount(self._away >> _RANK_BITS, minlength=len(self.sizes))
        self._note_skipped()


def keys_of(labels: Labels, ranks: NDArray[np.integer] | int) -> Keys:
    return np.asarray(labels).astype(np.int64) << _RANK_BITS | ranks
