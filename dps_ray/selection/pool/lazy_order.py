"""A changing set of keys that returns its smallest ones, and sorts no more than it has to.

    front (sorted)  <  range (never written out)  <  bag (in no order)

Only the front is kept sorted. When it runs out, about sqrt(n * size) of the smallest keys are partitioned
off the bag, so that a draw of `size` keys from n costs O(sqrt(n * size)) on average. The range is what
makes a pool of millions cost nothing: prompts that were never sampled are two integers, and are looked at
when their turn comes.
"""

from collections.abc import Callable
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dps_ray.selection.pool.growing import GrowingArray

_LEAST_REFILL = 1024


class LazyOrder:
    """An ordered set of distinct keys of one sortable dtype: add, discard, smallest.

    A key that was discarded never comes back, except one of the range that was discarded once and is added again.

    Args:
        dtype: of the keys.
        untouched: the set begins as range(untouched); keys added later must be larger than all of these.
        remaining: which keys of a part of that range, given by its first and its end, are still in the
            set, ascending. The caller knows, so that the set need not remember.
    """

    def __init__(
        self,
        dtype: DTypeLike,
        untouched: int = 0,
        remaining: Callable[[int, int], NDArray[Any]] = np.arange,
    ) -> None:
        self._count = untouched
        self._remaining = remaining
        self._front = np.empty(0, dtype)
        self._limit: np.generic | None = None  # what is not larger belongs in the front
        self._head, self._tail = 0, untouched
        self._bag = GrowingArray(dtype)
        self._gone = GrowingArray(dtype)  # discarded while in the bag
        self._gone_worth_sweeping = _LEAST_REFILL
        self._refill_size = _LEAST_REFILL

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        return self._front.nbytes + self._bag.nbytes + self._gone.nbytes

    def add(self, keys: NDArray[Any]) -> None:
        """Puts in keys that were never in the set, or that were discarded while the range still held them."""
        self._count += len(keys)
        if self._head < self._tail:  # `remaining` knows of these again
            keys = keys[(keys < self._head) | (keys >= self._tail)]
        near = self._belongs_in_front(keys)
        if near.any():
            added = np.sort(keys[near])
            self._front = np.insert(self._front, np.searchsorted(self._front, added), added)
            self._spill()
        self._bag.append(keys[~near])

    def discard(self, keys: NDArray[Any]) -> None:
        """Takes out keys that are in the set."""
        self._count -= len(keys)
        near = self._belongs_in_front(keys)
        if near.any():
            kept = np.ones(len(self._front), dtype=np.bool_)
            kept[np.searchsorted(self._front, keys[near])] = False
            self._front = self._front[kept]
        far = keys[~near]
        if self._head < self._tail:
            far = far[far >= self._tail]
        self._gone.append(far)
        if len(self._gone) > self._gone_worth_sweeping:
            self._sweep()

    def smallest(self, size: int) -> NDArray[Any]:
        """The `size` smallest keys, ascending; all of them if the set holds fewer."""
        while len(self._front) < min(size, self._count):
            self._refill(size)
        return self._front[:size]

    def _belongs_in_front(self, keys: NDArray[Any]) -> NDArray[np.bool_]:
        if self._limit is None:
            return np.zeros(len(keys), dtype=np.bool_)
        return keys <= self._limit

    def _refill(self, size: int) -> None:
        """Moves the next keys of the range, or else of the bag, to the end of the front."""
        if self._head < self._tail:
            end = min(self._tail, self._head + max(_LEAST_REFILL, 2 * size))
            taken = self._remaining(self._head, end).astype(self._front.dtype)
            self._head, self._limit = end, self._front.dtype.type(end - 1)
        else:
            part = max(_LEAST_REFILL, 2 * size, isqrt(len(self._bag) * size))
            self._refill_size = part = min(part, len(self._bag))
            self._bag.values.partition(part - 1)
            taken = np.sort(self._bag.values[:part])
            self._bag.drop_first(part)
            self._limit = taken[-1]
            gone = self._gone.values
            taken = taken[~np.isin(taken, gone)]
            self._gone = _holding(gone[gone > self._limit])
        self._front = np.concatenate([self._front, taken])

    def _spill(self) -> None:
        """Keeps the front short where many small keys arrive: its larger half goes to the bag."""
        if self._head == self._tail and len(self._front) > 2 * self._refill_size + _LEAST_REFILL:
            kept, spilled = np.split(self._front, [self._refill_size])
            self._front, self._limit = kept.copy(), kept[-1]
            self._bag.append(spilled)

    def _sweep(self) -> None:
        """Takes the discarded keys out of the bag, so that they do not pile up."""
        self._bag = _holding(self._bag.values[~np.isin(self._bag.values, self._gone.values)])
        self._gone = GrowingArray(self._front.dtype)
        self._gone_worth_sweeping = len(self._bag) // 4 + _LEAST_REFILL


def _holding(values: NDArray[Any]) -> GrowingArray:
    array = GrowingArray(values.dtype)
    array.append(values)
    return array
