"""Problems drawn at random of which none comes twice, in memory that does not grow with their number."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

L = TypeVar("L")

_BITS = 1 << 28  # 32 MiB: of 10^7 problems, one new in 2,700 is taken for a repeat and passed over
_PATIENCE = 20  # a kind is spent after this many times its size without a new problem


class Seen:
    """A Bloom filter (Bloom 1970) with four hashes: what was added is always known again.

    What was not may be taken for known by chance, so a stream that passes over what is known has no
    repeats, and lacks a few problems that it could have had: none in practice of the first 10^5.
    """

    def __init__(self) -> None:
        self._bits = bytearray(_BITS // 8)

    def add(self, key: str) -> bool:
        """Remember `key`; False if it was known, or is taken for known."""
        digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
        new = False
        for start in range(0, 16, 4):
            byte, bit = divmod(int.from_bytes(digest[start : start + 4], "little") % _BITS, 8)
            if not self._bits[byte] >> bit & 1:
                self._bits[byte] |= 1 << bit
                new = True
        return new


def by_level(sizes: Mapping[L, int], draw: Callable[[L], str]) -> Iterator[tuple[L, str]]:
    """Distinct problems, going round the levels until all are spent.

    Args:
        sizes: how many different problems each level has.
        draw: a problem of that level at random.
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
