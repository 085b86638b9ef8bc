"""The prompts of each cluster that wait to be tried, in a ring: never tried before, or long ago.

A cluster's prompts stand in a ring in the order of their ranks, which is random and fixed. They are taken
from where the last one was taken, so all are tried once before one comes again; a prompt that was tried is
out for a while, and comes back to its place. What all shards know alike is how many of a cluster were taken,
`passed`, which says where its ring is, and how many wait; what is known of single prompts, only their shard
knows. A prompt that was passed over, as when its rollout failed, is *behind*, and comes first from then on.
"""

import numpy as np
from numpy.typing import NDArray

from dps_ray.pool.index import Positions
from dps_ray.pooled.clusters import Clusters

Places = NDArray[np.int64]

_RANK_BITS = 32


class Waiting:
    """Who waits, of one shard; its prompts are named by position, in the order of their seeded hash.

    passed: int64 (C,), prompts of the whole pool taken from each ring so far
    counts: int64 (C,), prompts of the whole pool that wait in each
    here:   int64 (C,), prompts of this shard in each cluster
    """

    def __init__(self, clusters: Clusters) -> None:
        self.sizes = clusters.sizes
        self.labels = clusters.labels
        self.passed = np.zeros_like(clusters.sizes)
        self.counts = clusters.sizes.copy()
        self.here = np.bincount(clusters.labels, minlength=len(clusters.sizes))
        # By place: sorted by cluster, then rank. Ranks follow the hash, and so do positions.
        order = np.argsort(clusters.labels, kind="stable")
        self._keys = _keys(clusters.labels[order], clusters.ranks[order])
        self._positions = order.astype(np.int32)
        self._places = np.empty(len(order), np.int32)
        self._places[order] = np.arange(len(order))
        self._waits = np.ones(len(order), dtype=np.bool_)
        self._behind = np.empty(0, dtype=np.int64)

    @property
    def nbytes(self) -> int:
        arrays = (self._keys, self._positions, self._places, self._waits, self.labels, self._behind)
        return sum(array.nbytes for array in arrays)

    @property
    def behind(self) -> Positions:
        """Prompts of this shard that were passed over."""
        return self._positions[self._behind].astype(np.int64)

    def find(self, labels: NDArray[np.integer], numbers: NDArray[np.integer]) -> Positions:
        """Who stands there, `numbers` from the head of these rings on: int64 (n,).

        -1 where nobody of this shard waits there, or who does is behind.
        """
        ranks = (self.passed[labels] + numbers) % np.maximum(self.sizes[labels], 1)
        keys = _keys(labels, ranks)
        places = np.searchsorted(self._keys, keys)
        found = np.full(len(keys), -1, dtype=np.int64)
        if not len(self._keys):
            return found
        places = np.minimum(places, len(self._keys) - 1)
        good = (self._keys[places] == keys) & self._waits[places]
        if len(self._behind):
            good &= ~np.isin(places, self._behind)
        found[good] = self._positions[places[good]]
        return found

    def take(self, labels: NDArray[np.integer], positions: Positions) -> None:
        """Prompts leave: the clusters of all of the pool that do, and who of them is of this shard."""
        places = self._places[positions].astype(np.int64)
        self._waits[places] = False
        self._behind = self._behind[~np.isin(self._behind, places)]
        touched, taken = np.unique(labels, return_counts=True)
        rings = touched.repeat(taken)
        numbers = np.arange(len(rings)) - (taken.cumsum() - taken).repeat(taken)
        over = self.find(rings, numbers)
        self._behind = np.concatenate([self._behind, self._places[over[over >= 0]]])
        self.passed[touched] += taken
        self.counts[touched] -= taken

    def put_back(self, labels: NDArray[np.integer], positions: Positions) -> None:
        """Prompts come back to their places; arguments as for `take`."""
        self._waits[self._places[positions]] = True
        self.counts += np.bincount(labels, minlength=len(self.counts))

    def restore(self, passed: NDArray, counts: NDArray, out: Positions, behind: Positions) -> None:
        """Take up another's state: who of this shard does not wait, and who is behind."""
        self.passed, self.counts = np.array(passed), np.array(counts)
        self._waits[self._places[out]] = False
        self._behind = self._places[behind].astype(np.int64)


def _keys(labels: NDArray[np.integer], ranks: NDArray[np.integer]) -> NDArray[np.int64]:
    return labels.astype(np.int64) << _RANK_BITS | ranks
