"""The pool's ids in the order of their seeded hash, 8 bytes each, and where in that order an id stands.

Sorting the hashes once does three things: it is the order in which equals are drawn, it brings duplicates
side by side, and, the hash being a bijection, the ids need not be stored. Sorted hashes are spread evenly,
so their leading bits nearly tell the place; a directory of where each run of leading bits begins makes a
look-up a handful of comparisons, at 10^7 ids as at 10^4.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dps_ray.hashing import as_ids, hash_ids, hash_key, unhash_ids

Positions = NDArray[np.int64]

POSITION_BITS = 31

_PER_BIN = 16  # prompts to a directory entry, on average


class PromptIndex:
    """Maps ids to positions 0 to n-1 in the order of `hash_ids(ids, hash_key(seed))`, and back."""

    def __init__(self, ids: ArrayLike, seed: int) -> None:
        """ids: int64 (n,). Raises ValueError when they are not 64-bit integers, or one stands twice."""
        self.seed = int(seed)
        self._key = hash_key(self.seed)
        self._ties = hash_ids(as_ids(ids), self._key)
        if len(self) >= 1 << POSITION_BITS:
            raise ValueError(f"one index holds fewer than 2^31 ids, not {len(self):,}; use shards")
        self._ties.sort()
        twice = np.flatnonzero(self._ties[1:] == self._ties[:-1])
        if len(twice):
            raise ValueError(
                f"id {self.ids(twice)[0]} stands in the pool twice; ids must be unique"
            )
        bits = max(1, (len(self) // _PER_BIN).bit_length())
        self._shift = np.uint64(64 - bits)
        edges = np.arange(1 << bits, dtype=np.uint64) << self._shift
        self._starts = np.searchsorted(self._ties, edges).astype(np.int32)
        fullest = int(np.diff(self._starts, append=len(self)).max())
        self._halves = [1 << bit for bit in reversed(range(fullest.bit_length()))]  # of a bisection

    def __len__(self) -> int:
        return len(self._ties)

    @property
    def nbytes(self) -> int:
        return self._ties.nbytes + self._starts.nbytes

    def positions(self, ids: ArrayLike) -> Positions:
        """Where these ids stand: int64 (n,). Raises ValueError for an id that is not in the pool."""
        ids = as_ids(ids)
        positions, found = self.find(ids)
        if not found.all():
            raise ValueError(f"id {ids[~found][0]} is not in the pool")
        return positions

    def find(self, ids: NDArray[np.int64]) -> tuple[Positions, NDArray[np.bool_]]:
        """Where these ids stand, and which of them stand here at all: int64 and bool (n,)."""
        ties = hash_ids(ids, self._key)
        positions = self.first_at_or_after(ties)
        found = positions < len(self)
        if len(self):
            found &= self._ties.take(positions, mode="clip") == ties
        return positions, found

    def distinct_positions(self, ids: ArrayLike) -> Positions:
        """As `positions`; raises ValueError too for an id that is given twice."""
        positions = self.positions(ids)
        ordered = np.sort(positions)
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(twice):
            raise ValueError(f"id {self.ids(twice)[0]} is given twice; give each id once")
        return positions

    def first_at_or_after(self, ties: NDArray[np.uint64]) -> Positions:
        """For each hash the first position whose hash is not smaller (n if there is none): int64 (m,)."""
        positions = self._starts[(ties >> self._shift).astype(np.intp)].astype(np.int64)
        for half in self._halves:
            probed = self._ties.take(positions + (half - 1), mode="clip")
            positions += half * (probed < ties)
        return np.minimum(positions, len(self))

    def arc(self, start: int, length: int | None = None, share: float = 1.0) -> Positions:
        """Positions from the hash `start` on, around the ring of all hashes: int64 (m,).

        length: that many, or all if there are fewer. Without it: those whose hashes lie within `share` of
        the ring, whichever other ids the index holds.
        """
        end = start + int(share * 2**64)
        bounds = np.array([start, end % 2**64], dtype=np.uint64)
        first, last = self.first_at_or_after(bounds).tolist()
        if length is None:
            length = last - first + (len(self) if end >= 2**64 else 0)
        count = min(length, len(self))
        positions: NDArray[np.int64] = (first + np.arange(count)) % max(1, len(self))
        return positions

    def ids(self, positions: NDArray[np.integer]) -> NDArray[np.int64]:
        """The ids at these positions."""
        return unhash_ids(self._ties[positions], self._key)

    def ties(self, positions: NDArray[np.integer]) -> NDArray[np.uint64]:
        """The seeded hashes at these positions; position order is hash order."""
        ties: NDArray[np.uint64] = self._ties[positions]
        return ties
