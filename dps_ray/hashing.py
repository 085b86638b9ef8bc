"""Prompt ids and their stable 64-bit hashes, which break ties, select random subsets and map ids to shards.

The hash applies the finaliser of SplitMix64 (Steele, Lea & Flood 2014) to the id xor a key. It is a bijection on
64-bit words, with two consequences that other modules rely on. Different ids never collide, so the order by hash is a
total order. The id can be recovered from its hash, so a table sorted by hash need not store the ids.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

BUCKETS = 1024

_WORD = 2**64 - 1
_GAMMA = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_FIRST_INVERSE, _SECOND_INVERSE = pow(_FIRST, -1, 2**64), pow(_SECOND, -1, 2**64)
_BLOCK = 1 << 15  # words hashed at a time: two such arrays fit in the second-level cache


def as_ids(values: ArrayLike) -> NDArray[np.int64]:
    """Prompt ids as int64 (n,). Raises ValueError if they are not 64-bit integers."""
    given = np.asarray(values)
    if given.ndim != 1:
        raise ValueError(f"ids must be one row of integers, not an array of shape {given.shape}")
    if not len(given):
        return np.empty(0, dtype=np.int64)
    if given.dtype.kind not in "iu":
        raise ValueError(f"ids must be 64-bit integers, not {given.dtype} such as {given[0]!r}")
    if given.dtype == np.uint64 and given.max() > np.iinfo(np.int64).max:
        raise ValueError(f"id {given.max()} does not fit in a signed 64-bit integer")
    return given.astype(np.int64, copy=False)


def hash_key(*parts: int) -> int:
    """A 64-bit key made from integers such as (seed, step). Different integers give unrelated keys."""
    key = 0
    for part in parts:
        word = (key ^ (part & _WORD)) + _GAMMA & _WORD
        word = (word ^ word >> 30) * _FIRST & _WORD
        word = (word ^ word >> 27) * _SECOND & _WORD
        key = word ^ word >> 31
    return key


def hash_ids(ids: NDArray[np.int64], key: int) -> NDArray[np.uint64]:
    """The keyed hash of each id: uint64 (n,), different for different ids."""
    words = ids.astype(np.uint64)
    for start in range(0, len(words), _BLOCK):
        block = words[start : start + _BLOCK]
        block ^= np.uint64(key)
        block ^= block >> np.uint64(30)
        block *= np.uint64(_FIRST)
        block ^= block >> np.uint64(27)
        block *= np.uint64(_SECOND)
        block ^= block >> np.uint64(31)
    return words


def unhash_ids(hashes: NDArray[np.uint64], key: int) -> NDArray[np.int64]:
    """The ids whose keyed hashes these are: `unhash_ids(hash_ids(ids, key), key) == ids`."""
    words: NDArray[np.uint64] = hashes ^ hashes >> np.uint64(31) ^ hashes >> np.uint64(62)
    words *= np.uint64(_SECOND_INVERSE)
    words ^= words >> np.uint64(27) ^ words >> np.uint64(54)
    words *= np.uint64(_FIRST_INVERSE)
    words ^= words >> np.uint64(30) ^ words >> np.uint64(60)
    words ^= np.uint64(key)
    return words.view(np.int64)


def hash_rows(key: int, ids: NDArray[np.int64], *columns: NDArray[np.integer]) -> int:
    """A 63-bit hash of a set of rows, whatever their order: ids, int64 (n,), and columns of integers, (n,) each."""
    words = hash_ids(ids, hash_key(key))
    for number, column in enumerate(columns, start=1):
        words ^= column.astype(np.uint64)
        words = hash_ids(words.view(np.int64), hash_key(key, number))
    return int(words.sum(dtype=np.uint64)) >> 1


def buckets(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """The virtual bucket of each id, 0 to 1,023. It depends on the id alone, never on a seed."""
    return (hash_ids(ids, hash_key(BUCKETS)) >> np.uint64(54)).astype(np.int64)


def shards(ids: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The shard, of `count`, that holds each id. Each shard holds a contiguous range of buckets, as equal in size as
    possible.

    Changing the number of shards moves whole buckets between shards; ids never move between buckets.
    """
    if not 1 <= count <= BUCKETS:
        raise ValueError(f"the number of shards must lie between 1 and {BUCKETS:,}, not {count}")
    return buckets(ids) * count // BUCKETS
