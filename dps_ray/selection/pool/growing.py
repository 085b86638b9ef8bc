"""A one-dimensional array that grows at its end, a quarter at a time."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class GrowingArray:
    """Values of one dtype. Appending costs O(values) on average, and at most a quarter of the room is idle."""

    def __init__(self, dtype: DTypeLike) -> None:
        self._room = np.empty(0, dtype)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        return self._room.nbytes

    @property
    def values(self) -> NDArray[Any]:
        """A view of the values, good until the next append."""
        return self._room[: self._count]

    def append(self, values: NDArray[Any]) -> None:
        count = self._count + len(values)
        if count > len(self._room):
            room = np.empty(max(64, count * 5 // 4), self._room.dtype)
            room[: self._count] = self.values
            self._room = room
        self._room[self._count : count] = values
        self._count = count

    def drop_first(self, count: int) -> None:
        """Removes the first values; the last ones take their places."""
        left = self._count - count
        moved = min(count, left)
        self._room[:moved] = self._room[self._count - moved : self._count]
        self._count = left
