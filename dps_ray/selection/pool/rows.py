"""Beliefs that need a row of their own: a dense table that grows and shrinks.

All values of one number lie side by side, so that each operation of the method runs over neighbouring
doubles. Rows are in no order, and nothing depends on their order: a removed row's place is taken by the
last.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dps_ray.beliefs.hmm import Beliefs, Floats
from dps_ray.selection.pool.index import Positions
from dps_ray.selection.pool.ranking import Keys, Ranks, keys_of, positions_of, ranks

Rows = NDArray[np.intp]


class Content(NamedTuple):
    """Some rows, on their way in or out.

    numbers: float64 (15, n): evidence (9), posterior (3), predicted (3)
    ranks:   complex128 (n,), see `ranking`
    seen_at: int64 (n,), the step at which the prompt was last observed
    """

    numbers: Floats
    ranks: Ranks
    seen_at: NDArray[np.int64]

    @classmethod
    def of(cls, shared: Beliefs, keys: Keys) -> "Content":
        """Rows for prompts that had the shared belief (n = 1) until now; not yet scored or observed."""
        column = np.concatenate([part.ravel() for part in shared])
        numbers = column[:, None].repeat(len(keys), axis=1)
        return cls(numbers, ranks(np.zeros(len(keys)), keys), np.zeros_like(keys))


class RowTable:
    """The beliefs of some prompts, each in a row, with what ranks them.

    beliefs:  evidence (3, 3, n), posterior (3, n) and predicted (3, n)
    ranks:    complex128 (n,), see `ranking`
    seen_at:  int64 (n,), the step at which each prompt was last observed

    All three are views to read and to write in, good until rows come or go.

    Args:
        slots: int32 (N,), by position in the pool, where the tables of a store record which prompts have a
            row: 0 for none, sign * (row + 1) for a prompt in the table of that sign.
        sign: 1 or -1.
    """

    def __init__(self, slots: NDArray[np.int32], sign: int) -> None:
        self._slots, self._sign = slots, sign
        self._count = 0
        self._room = Content(np.empty((15, 0)), np.empty(0, np.complex128), np.empty(0, np.int64))

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self._room)

    @property
    def beliefs(self) -> Beliefs:
        numbers = self._room.numbers
        evidence = numbers[:9].reshape(3, 3, numbers.shape[1])
        return Beliefs(
            evidence[:, :, : self._count], numbers[9:12, : self._count], numbers[12:, : self._count]
        )

    @property
    def ranks(self) -> Ranks:
        return self._room.ranks[: self._count]

    @property
    def seen_at(self) -> NDArray[np.int64]:
        return self._room.seen_at[: self._count]

    def find(self, positions: Positions) -> tuple[NDArray[np.intp], Rows]:
        """Which of these prompts are in this table, and in which rows."""
        slots = self._sign * self._slots[positions].astype(np.intp)
        here = np.flatnonzero(slots > 0)
        return here, slots[here] - 1

    def content(self, rows: Rows) -> Content:
        """A copy of these rows."""
        return Content._make(array.take(rows, axis=-1) for array in self._room)

    def append(self, content: Content) -> None:
        """Gives a row to prompts that have none."""
        first, self._count = self._count, self._count + len(content.ranks)
        if self._count > len(self._room.ranks):
            size = max(256, self._count * 5 // 4)
            self._room = Content._make(_widened(array, size) for array in self._room)
        for array, added in zip(self._room, content, strict=True):
            array[..., first : self._count] = added
        self._note(np.arange(first, self._count))

    def remove(self, rows: Rows) -> None:
        """Takes their rows from prompts; the last rows fill the places."""
        self._slots[positions_of(keys_of(self.ranks[rows]))] = 0
        left = self._count - len(rows)
        staying = np.ones(len(rows), dtype=np.bool_)
        staying[rows[rows >= left] - left] = False
        filled, movers = rows[rows < left], left + np.flatnonzero(staying)
        for array in self._room:
            array[..., filled] = array.take(movers, axis=-1)
        self._count = left
        self._note(filled)

    def _note(self, rows: Rows) -> None:
        self._slots[positions_of(keys_of(self.ranks[rows]))] = self._sign * (rows + 1)


def _widened(array: NDArray[Any], size: int) -> NDArray[Any]:
    wider = np.empty((*array.shape[:-1], size), dtype=array.dtype)
    wider[..., : array.shape[-1]] = array
    return wider
