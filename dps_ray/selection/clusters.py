"""Which kind each prompt is of, and its number among those of its kind."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dps_ray.hashing import as_ids, hash_ids, hash_key, hash_rows

_NUMBERING = 0x6E756D626572  # makes this hash independent of others


class Moved(NamedTuple):
    """The prompts that an earlier pool numbered, and that come last in this one; alike in all shards.

    ids:    int64 (n,), ascending
    labels: int32 (n,), the cluster of each
    ranks:  int32 (n,), its number there
    """

    ids: NDArray[np.int64]
    labels: NDArray[np.int32]
    ranks: NDArray[np.int32]

    @classmethod
    def joined(cls, parts: "Sequence[Moved]") -> "Moved":
        """Returns the prompts of all parts, which have none in common."""
        whole = cls._make(map(np.concatenate, zip(*parts, strict=True)))
        return whole.take(np.argsort(whole.ids))

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> "Moved":
        """Returns these prompts only."""
        return Moved._make(array[rows] for array in self)

    def rows(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the row of each id: int64 (n,). Raises ValueError for an id that is not among the moved."""
        rows = np.searchsorted(self.ids, ids)
        found = (
            self.ids.take(rows, mode="clip") == ids if len(self.ids) else np.zeros(len(ids), bool)
        )
        if not found.all():
            raise ValueError(
                f"prompt {ids[np.argmin(found)]} was observed before the pool changed; give `number_within` the ids "
                "of all such prompts as `last`"
            )
        return rows


class Clusters(NamedTuple):
    """The clusters of some prompts of a pool, such as those of a shard.

    labels: int32 (n,), the cluster of each, from 0
    ranks:  int32 (n,), its number among the prompts of its cluster, over the whole pool, from 0
    sizes:  int64 (C,), how many prompts of the whole pool each cluster has
    numbering: hash of everything that decides labels and ranks, so that pools numbered alike are recognised; 0: not
        known. With several sources a tuple, one for each
    moved:  where the prompts that come last are; None: there are no such prompts
    """

    labels: NDArray[np.int32]
    ranks: NDArray[np.int32]
    sizes: NDArray[np.int64]
    numbering: int | tuple[int, ...] = 0
    moved: Moved | None = None

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> "Clusters":
        """Returns the clusters of these prompts only."""
        return self._replace(labels=self.labels[rows], ranks=self.ranks[rows])

    @property
    def starts(self) -> NDArray[np.int64]:
        """The number of the prompt that comes first in each cluster: int64 (C,). Those before it come last."""
        if self.moved is None:
            return np.zeros_like(self.sizes)
        before = np.bincount(self.moved.labels, minlength=len(self.sizes))
        starts: NDArray[np.int64] = np.where(before < self.sizes, before, 0)
        return starts


def number_within(
    ids: ArrayLike, labels: ArrayLike | None, seed: int, last: ArrayLike | None = None
) -> Clusters:
    """Numbers the prompts of each cluster in the order of the seeded hash of their ids.

    ids: int64 (N,), the whole pool; labels: int (N,), from 0, or None: all are of one cluster.
    last: int64 ids of prompts that come after all others of their cluster, again in the order of the hash: those
        observed before the pool grew. They get the first numbers, and the cluster starts after them (`starts`), so that
        they wait for the next lap. Ids of other pools are ignored.

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
    moved = _rows_of(as_ids([] if last is None else last), known)
    # A cluster's moved prompts stand in front of its others.
    halves = of.astype(np.int64) * 2 + 1
    halves[moved] -= 1
    order = _order(hash_ids(known, hash_key(seed)), halves)
    ranks = np.empty(len(of), np.int32)
    first = np.cumsum(sizes) - sizes
    ranks[order] = np.arange(len(of)) - first[of[order]]
    return Clusters(
        of,
        ranks,
        sizes,
        hash_rows(_NUMBERING, known, halves),
        Moved(known[moved], of[moved], ranks[moved]) if len(moved) else None,
    )


def _order(hashes: NDArray[np.uint64], groups: NDArray[np.int64]) -> NDArray[np.intp]:
    """Rows sorted by (group, hash). Hashes are distinct. Small groups are sorted by radix, at a fifth of the time."""
    order = np.argsort(hashes)
    fits = not len(groups) or groups.max() < 2**16
    grouped = groups[order].astype(np.uint16) if fits else groups[order]
    return order[np.argsort(grouped, kind="stable")]


def _rows_of(wanted: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.intp]:
    """The rows of those ids that are wanted, ascending by id."""
    if not len(wanted) or not len(ids):
        return np.empty(0, dtype=np.intp)
    wanted = np.unique(wanted)
    order = None if (ids[1:] > ids[:-1]).all() else np.argsort(ids)
    places = np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)
    rows = places if order is None else order[places]
    wanted_rows: NDArray[np.intp] = rows[ids[rows] == wanted]
    return wanted_rows
