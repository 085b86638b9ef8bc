"""Which kind each prompt is of, and its number among those of its kind."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dps_ray.hashing import as_ids, hash_ids, hash_key


class Clusters(NamedTuple):
    """Of some prompts of a pool, such as those of a shard.

    labels: int32 (n,), the cluster of each, from 0
    ranks:  int32 (n,), its number among the prompts of its cluster, over the whole pool, from 0
    sizes:  int64 (C,), how many prompts of the whole pool each cluster has
    """

    labels: NDArray[np.int32]
    ranks: NDArray[np.int32]
    sizes: NDArray[np.int64]

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> "Clusters":
        """Of these prompts only."""
        return Clusters(self.labels[rows], self.ranks[rows], self.sizes)


def number_within(ids: ArrayLike, labels: ArrayLike | None, seed: int) -> Clusters:
    """Numbers the prompts of each cluster in the order of the seeded hash of their ids.

    ids: int64 (N,), the whole pool; labels: int (N,), from 0, or None: all are of one cluster.

    That order is random, and has to do with nothing the prompts are like: the next prompts of a cluster in it
    are a random sample of those that are left.

    Raises ValueError when there is not one label from 0 to 2^31 - 1 for each id.
    """
    known = as_ids(ids)
    given = np.zeros(len(known), np.int32) if labels is None else np.asarray(labels)
    if given.shape != known.shape or given.dtype.kind not in "iu":
        raise ValueError(
            f"clusters must be {len(known)} integers, one for each id, not {given.dtype} of shape {given.shape}"
        )
    if len(given) and not (given.min() >= 0 and given.max() < 2**31):
        wrong = given.min() if given.min() < 0 else given.max()
        raise ValueError(f"cluster {wrong} is none: number them from 0 to 2^31 - 1")
    of = given.astype(np.int32)
    sizes = np.bincount(of, minlength=1).astype(np.int64)
    order = np.lexsort((hash_ids(known, hash_key(seed)), of))
    ranks = np.empty(len(of), np.int32)
    first = np.cumsum(sizes) - sizes
    ranks[order] = np.arange(len(of)) - first[of[order]]
    return Clusters(of, ranks, sizes)
