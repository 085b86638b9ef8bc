"""Ids of prompts: made from hashes of rows, sorted for look-ups by bisection."""

import hashlib
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dps_ray.hashing import hash_ids, hash_key

# Separates the ids made for repeated rows from the hashes that they are made from.
_REPEATS = hash_key(0x726570656174)

Order = NDArray[np.int32] | NDArray[np.int64]


class Sorted(NamedTuple):
    """Ids and the permutation that sorts them: `ids[order] == sorted_ids`.

    ids:        int64 (N,)
    order:      int32 (N,), or int64 if N >= 2^31; equal ids keep their order
    sorted_ids: int64 (N,), ascending
    """

    ids: NDArray[np.int64]
    order: Order
    sorted_ids: NDArray[np.int64]


def in_order(ids: NDArray[np.int64]) -> Sorted:
    """Sorts ids."""
    order = np.argsort(ids)
    sorted_ids = ids[order]
    if (sorted_ids[1:] == sorted_ids[:-1]).any():
        # A stable sort takes four times as long, and is needed only where ids repeat.
        order = np.argsort(ids, kind="stable")
    small = len(ids) < 2**31
    return Sorted(ids, order.astype(np.int32) if small else order, sorted_ids)


def made_from(contents: NDArray[np.int64]) -> Sorted:
    """Ids made from hashes of rows, sorted: of rows with the same hash, each after the first gets a different id."""
    hashes = in_order(contents)
    is_first = np.concatenate(([True], hashes.sorted_ids[1:] != hashes.sorted_ids[:-1]))
    if is_first.all():
        return hashes
    places = np.arange(len(contents))
    repeat = places - np.maximum.accumulate(np.where(is_first, places, 0))
    again, ids = hashes.order[~is_first], contents.copy()
    mixed = hash_ids(contents[again] ^ repeat[~is_first], _REPEATS)
    ids[again] = (mixed >> np.uint64(1)).astype(np.int64)
    return in_order(ids)


def hashes_of(texts: pa.StringArray) -> NDArray[np.int64]:
    """Stable hashes of strings in [0, 2^63), from 8-byte BLAKE2b digests."""
    _, offset_buffer, data = texts.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32, len(texts) + 1, 4 * texts.offset)
    view = memoryview(data)
    digests = b"".join(
        hashlib.blake2b(view[start:end], digest_size=8).digest()
        for start, end in pairwise(offsets.tolist())
    )
    return np.frombuffer(digests, "<i8") & (2**63 - 1)
