"""The prompts of each cluster that wait to be tried, in a ring: never tried before, or long ago.

The prompts of a cluster form a ring in the order of their ranks, which is random and fixed. They are taken from the
head on, so all are tried once before one comes again. A prompt that was tried is *away* for a while, and comes back to
its place. A prompt that was passed over, as when its rollout failed, is *behind*, and is taken first from then on.

All shards hold the same lists of prompts that are away or behind. So they agree which prompt of the whole pool comes
next, and after that, and so on; each shard looks up which of them it holds.
"""

import numpy as np
from numpy.typing import NDArray

from dps_ray.selection.clusters import Clusters
from dps_ray.selection.pool.index import Positions
from dps_ray.selection.pooled.state_dynamics import of_clusters

Keys = NDArray[np.int64]
Labels = NDArray[np.integer]

_RANK_BITS = 32


class Waiting:
    """The waiting prompts. The *key* of a prompt is its cluster and its rank there; prompts of this shard also have
    positions, in the order of their seeded hash.

    sizes:  int64 (C,), prompts of the whole pool in each cluster
    counts: int64 (C,), how many of them wait
    laps:   int64 (C,), how often each ring was passed through
    here:   int64 (C,), prompts of this shard in each cluster
    labels, ranks: int32 (n,), of the prompts of this shard, by position
    """

    def __init__(self, clusters: Clusters) -> None:
        self.labels, self.ranks, self.sizes = clusters.labels, clusters.ranks, clusters.sizes
        self.counts, self.laps = clusters.sizes.copy(), np.zeros_like(clusters.sizes)
        self.here = np.bincount(clusters.labels, minlength=len(clusters.sizes))
        self._positions, self._mine = _by_key(clusters)
        self._heads = clusters.starts  # the rank from which on each is taken
        self._away = np.empty(0, dtype=np.int64)
        self._behind = np.empty(0, dtype=np.int64)
        self._note_skipped()

    @property
    def nbytes(self) -> int:
        arrays = (self._mine, self._positions, self.labels, self.ranks, self._away)
        return sum(array.nbytes for array in arrays)

    def find(self, labels: Labels, numbers: NDArray[np.integer]) -> tuple[Keys, NDArray[np.int64]]:
        """Returns keys of the prompts that are the `numbers`-th to come (below `counts`) of these clusters, and their laps."""
        first, last = (np.searchsorted(self._behind, keys_of(labels + i, 0)) for i in (0, 1))
        late = numbers < last - first
        # Prompts away or behind are skipped. Skipped places, less the number skipped before each, ascend.
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
        """Returns the lap in which each prompt waits, or would wait if it was put back; late: whether it is behind."""
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
        """Marks these waiting prompts as away, since they are tried. Returns the laps that they waited in."""
        late = np.isin(keys, self._behind)
        waited_in = self.laps_of(keys, late)
        from_ring = keys[~late]
        self._behind = np.setdiff1d(self._behind, keys, assume_unique=True)
        self._away = np.union1d(self._away, keys[late])
        self._note_skipped()
        # The head moves past as many prompts; those of them that were not taken stay behind.
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

    def take_for_good(self, keys: Keys) -> None:
        """Takes these prompts out, as far as they wait. They are never put back."""
        self.take(np.setdiff1d(keys, self._away))

    def put_back(self, keys: Keys) -> None:
        """Returns these prompts to their places in the rings."""
        self._away = np.setdiff1d(self._away, keys, assume_unique=True)
        self.counts += np.bincount(keys >> _RANK_BITS, minlength=len(self.counts))
        self._note_skipped()

    def _note_skipped(self) -> None:
        """Updates the places of prompts away or behind, counted from the head of each ring, less how many of them come
        before, with the cluster in front: ascending."""
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
        """Goes on from a snapshot, which may be of a pool with fewer clusters."""
        clusters = len(self.sizes)
        self._heads, self.laps = of_clusters(heads, clusters), of_clusters(laps, clusters)
        self._behind, self._away = np.array(behind), np.array(away)
        self.counts = self.sizes - np.bincount(self._away >> _RANK_BITS, minlength=len(self.sizes))
        self._note_skipped()


def _by_key(clusters: Clusters) -> tuple[NDArray[np.int32], Keys]:
    """The positions of these prompts sorted by key, and the keys. Prompts are by position."""
    keys = keys_of(clusters.labels, clusters.ranks)
    if clusters.moved is None:  # ranks follow the hash, and so do positions
        order = np.argsort(clusters.labels, kind="stable")
    else:
        order = np.argsort(keys)
    return order.astype(np.int32), keys[order]


def keys_of(labels: Labels, ranks: NDArray[np.integer] | int) -> Keys:
    return np.asarray(labels).astype(np.int64) << _RANK_BITS | ranks
