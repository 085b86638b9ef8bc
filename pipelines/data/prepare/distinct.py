"""Random problems without repeats, in memory that does not grow with their number."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

L = TypeVar("L")

_BITS = (
    1 << 28
)  # 32 MiB: after 10^7 problems, one new problem in 2,700 is mistaken for a repeat and skipped
_PATIENCE = (
    20  # a level counts as exhausted after this many times its size draws without a new problem
)


class Seen:
    """A Bloom filter (Bloom 1970) with four hashes: it always recognises a key that was added.

    It may by chance also report a new key as known. A stream that skips known keys therefore has no
    repeats, but lacks a few possible problems; among the first 10^5 in practice none.
    """

    def __init__(self) -> None:
        self._bits = bytearray(_BITS // 8)

    def add(self, key: str) -> bool:
        """Adds `key`. Returns False if it was known, or is mistaken for a known key."""
        digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
        new = False
        for start in range(0, 16, 4):
            byte, bit = divmod(int.from_bytes(digest[start : start + 4], "little") % _BITS, 8)
            if not self._bits[byte] >> bit & 1:
                self._bits[byte] |= 1 << bit
                new = True
        return new


def by_level(sizes: Mapping[L, int], draw: Callable[[L], str]) -> Iterator[tuple[L, str]]:
    """Yields distinct problems with their levels. The levels take turns until all are exhausted.

    Args:
        sizes: the number of different problems of each level.
        draw: returns a random problem of a level.
    """
    seen, left = Seen(), dict(sizes)
    while left:
        for level in list(left):
            for _ in range(_PATIENCE * sizes[level]):
                if seen.add(problem := draw(level)):
                    break
            else:
                del left[level]
                continue
            yield level, problem
            left[level] -= 1
            if not left[level]:
                del left[level]
