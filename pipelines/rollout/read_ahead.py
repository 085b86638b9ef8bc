"""Reading prompts before they are needed, while engines roll out the batch before."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from dps_ray.prompts.dataset import Prompt

Read = Callable[[NDArray[np.int64]], list[Prompt]]


class ReadAhead:
    """Reads prompts by their ids, and keeps those that it was told to expect.

    One read runs at a time. What the background cannot read is read again when it is asked for, so that an error
    reaches the caller.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._thread = ThreadPoolExecutor(1, "read-ahead")
        self._coming: Future[dict[int, Prompt]] | None = None

    def expect(self, ids: NDArray[np.int64]) -> None:
        """Begins to read these prompts in the background, and drops those that were expected before."""
        held = self._held()
        missing = ids[[int(id_) not in held for id_ in ids]]
        kept = {int(id_): held[int(id_)] for id_ in ids if int(id_) in held}

        def read() -> dict[int, Prompt]:
            return kept | {prompt.id: prompt for prompt in self._read(missing)}

        self._coming = self._thread.submit(read)

    def rows(self, ids: NDArray[np.int64]) -> list[Prompt]:
        """Returns the prompts with these ids, in this order."""
        held = self._held()
        missing = [int(id_) for id_ in ids if int(id_) not in held]
        found = {prompt.id: prompt for prompt in self._read(np.array(missing, np.int64))}
        return [found.get(int(id_)) or held[int(id_)] for id_ in ids]

    def count(self, ids: NDArray[np.int64]) -> int:
        """Returns how many of these prompts were read ahead."""
        held = self._held()
        return sum(int(id_) in held for id_ in ids)

    def _held(self) -> dict[int, Prompt]:
        """Returns what was read ahead, once that is done; nothing if it failed."""
        if self._coming is None or self._coming.exception() is not None:
            return {}
        return self._coming.result()
