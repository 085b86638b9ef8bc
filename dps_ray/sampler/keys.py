"""Keys of prompts as a training framework knows them, and the 64-bit ids that selectors know them by.

An id depends on the key alone: not on the order of the keys, on the process, or on PYTHONHASHSEED.
"""

import hashlib
import re
from collections.abc import Hashable, Iterable, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dps_ray.errors import SamplerError

_LEAST, _GREATEST = -(2**63), 2**63 - 1
# Parts of a `repr` that differ between processes: an address, and a set, whose order depends on PYTHONHASHSEED.
_UNSTABLE = re.compile(r" at 0x[0-9a-fA-F]+|frozenset\(\{")


def id_of(key: Hashable) -> int:
    """Returns the id of a key, from -2^63 to 2^63 - 1.

    An integer is its own id. A string has the hash that `dps_ray.prompts` gives to the contents of a row: the first 63
    bits of BLAKE2b. Any other key has the hash of its type and `repr`, so `(task, 3)`, a UUID or a path will do.

    Raises:
        SamplerError: the `repr` of the key is not the same in every process.
    """
    if isinstance(key, Integral) and _LEAST <= key <= _GREATEST:
        return int(key)
    if isinstance(key, str):
        content = key.encode("utf-8", "surrogatepass")
    else:
        text = repr(key)
        if type(key).__repr__ is object.__repr__ or _UNSTABLE.search(text):
            raise SamplerError(
                f"the key {text} is written differently in each process, so its beliefs could not be found again; use a "
                "string, an integer, or a tuple of them"
            )
        content = f"{type(key).__qualname__}\0{text}".encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(content, digest_size=8).digest()
    return int.from_bytes(digest, "little") & _GREATEST


class KeyTable:
    """The keys of a pool, found by their ids and the reverse. It costs 16 bytes a key beside the keys themselves.

    Args:
        keys: hashable and distinct, in any order.

    Raises:
        SamplerError: there are no keys, a key occurs twice, or two keys have one id.
    """

    def __init__(self, keys: Iterable[Hashable]) -> None:
        self._keys = _kept(keys)
        ids = _ids(self._keys)
        self._order = np.argsort(ids, kind="stable")
        self.ids: NDArray[np.int64] = ids[self._order]
        """Ascending, int64 (N,)."""
        if not len(ids):
            raise SamplerError("there are no keys; give the key of every prompt of the pool")
        same = np.flatnonzero(self.ids[1:] == self.ids[:-1])
        if len(same):
            first, second = self.keys_at(np.arange(same[0], same[0] + 2))
            if first == second:
                raise SamplerError(f"the key {first!r} occurs twice; give each prompt one key")
            raise SamplerError(f"the keys {first!r} and {second!r} have the same id; rename one")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def order(self) -> NDArray[np.intp]:
        """Places of the keys, as they were given, in the order of their ids: (N,)."""
        return self._order

    def keys_at(self, rows: NDArray[np.integer]) -> list[Any]:
        """Returns the keys at these rows of `ids`."""
        found = [self._keys[place] for place in self._order[rows].tolist()]
        return [int(key) for key in found] if isinstance(self._keys, np.ndarray) else found

    def keys_of(self, ids: NDArray[np.int64]) -> list[Any]:
        """Returns the keys with these ids, which must be in the pool."""
        return self.keys_at(np.searchsorted(self.ids, ids))

    def ids_of(self, keys: Iterable[Hashable]) -> list[int]:
        """Returns the id of each key.

        Raises:
            SamplerError: a key is not in the pool.
        """
        if isinstance(keys, (str, bytes)) or not isinstance(keys, Iterable):
            raise SamplerError(f"keys={keys!r}: give a list of keys, such as [{keys!r}]")
        wanted = list(keys)
        ids = [id_of(key) for key in wanted]
        rows = np.searchsorted(self.ids, np.array(ids, dtype=np.int64))
        for key, identity, row in zip(wanted, ids, rows.tolist(), strict=True):
            if row == len(self) or self.ids[row] != identity:
                raise SamplerError(
                    f"the key {key!r} is not in the pool of {len(self)} keys; report keys as `take` gave them"
                )
        return ids


def _kept(keys: Iterable[Hashable]) -> Sequence[Any] | NDArray[np.integer]:
    if isinstance(keys, (str, bytes)):
        raise SamplerError(f"keys={keys!r}: give a list of keys, one for each prompt")
    if isinstance(keys, np.ndarray):
        return keys.copy() if keys.ndim == 1 and keys.dtype.kind in "iu" else keys.tolist()
    return keys if isinstance(keys, range) else list(keys)


def _ids(keys: Sequence[Any] | NDArray[np.integer]) -> NDArray[np.int64]:
    if isinstance(keys, range) or (isinstance(keys, np.ndarray) and keys.dtype.kind == "i"):
        return np.asarray(keys, dtype=np.int64)
    return np.fromiter(map(id_of, keys), dtype=np.int64, count=len(keys))
