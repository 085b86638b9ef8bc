"""Snapshots of selectors as Arrow files, and redistribution of a snapshot over another number of shards.

A snapshot is a dict of arrays and plain numbers. Per-prompt arrays form groups with a common prefix: a group has
`moving_ids`, int64 (n,), and every array whose name begins with `moving_` has these prompts on its last axis.
All other entries are shared, and equal in every shard.

The file holds one row. Each array is a list in a column of its own, with its shape in the column's metadata. The
plain numbers are JSON in the schema's metadata.
"""

import json
from collections.abc import Mapping, Sequence
from io import RawIOBase
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dps_ray.durable.files import Storage, Stored
from dps_ray.durable.manifest import Manifest
from dps_ray.errors import CheckpointError
from dps_ray.hashing import shards

Snapshot = Mapping[str, Any]


def shard_file(index: int, count: int) -> str:
    """The name of a shard's file, such as `beliefs-00003-of-00016.arrow`."""
    return f"beliefs-{index:05}-of-{count:05}.arrow"


def write_snapshot(storage: Storage, path: str, snapshot: Snapshot) -> Stored:
    """Writes a snapshot. `rows` of the result is the number of prompts in its largest group."""
    arrays = {name: value for name, value in snapshot.items() if isinstance(value, np.ndarray)}
    plain = {name: value for name, value in snapshot.items() if name not in arrays}
    columns = [_one_row(array) for array in arrays.values()]
    fields = [
        pa.field(name, column.type, metadata={"shape": json.dumps(array.shape)})
        for (name, array), column in zip(arrays.items(), columns, strict=True)
    ]
    schema = pa.schema(fields, metadata={"plain": json.dumps(plain)})
    batch = pa.record_batch(columns, schema=schema)

    def write(sink: RawIOBase) -> None:
        with pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(batch)

    written = storage.write(path, write)
    rows = max((len(snapshot[f"{group}_ids"]) for group in _groups(snapshot)), default=0)
    return Stored(written.path, written.bytes, written.sha256, rows)


def read_snapshot(storage: Storage, stored: Stored) -> dict[str, Any]:
    """Reads a snapshot; its arrays have the dtypes and shapes with which they were written.

    Raises:
        CheckpointError: the file is missing, truncated or altered.
    """
    batch = pa.ipc.open_file(storage.read(stored)).get_batch(0)
    arrays = {
        field.name: _array(column, json.loads(field.metadata[b"shape"]))
        for field, column in zip(batch.schema, batch.columns, strict=True)
    }
    return {**json.loads(batch.schema.metadata[b"plain"]), **arrays}


def reshard(snapshots: Sequence[Snapshot], count: int) -> list[dict[str, Any]]:
    """Redistributes the snapshots of all shards over `count` shards; `hashing.shards` says which prompt goes where.

    snapshots: one for each of the old shards, in any order.

    Selectors restored from the result continue exactly, bit for bit, as the old ones would have.

    Raises:
        CheckpointError: the shared entries differ, so the snapshots are not from one run and step.
    """
    groups = _groups(snapshots[0])
    by_prompt = [name for name in snapshots[0] if name.startswith(tuple(f"{g}_" for g in groups))]
    shared = {name: value for name, value in snapshots[0].items() if name not in by_prompt}
    for index, other in enumerate(snapshots):
        _check_shared(shared, other, by_prompt, index)

    parts: list[dict[str, Any]] = [dict(shared) for _ in range(count)]
    for group in groups:
        ids = _joined(snapshots, f"{group}_ids")
        order = np.argsort(ids)  # makes the result independent of the old number of shards
        homes = shards(ids[order], count)
        rows = [order[homes == shard] for shard in range(count)]
        for name in by_prompt:
            if name.startswith(f"{group}_"):
                values = _joined(snapshots, name)
                for part, mine in zip(parts, rows, strict=True):
                    part[name] = values.take(mine, axis=-1)
    return parts


def read_shard(storage: Storage, manifest: Manifest, index: int, count: int) -> dict[str, Any]:
    """The snapshot for shard `index` of `count`, from a checkpoint with any number of shards.

    Raises:
        CheckpointError: a file is missing, truncated or altered, or the manifest does not list all shards.
    """
    then = manifest.belief_shards
    named = {file.path.rpartition("/")[2]: file for file in manifest.files}
    wanted = [index] if then == count else range(then)
    try:
        files = [named[shard_file(each, then)] for each in wanted]
    except KeyError as error:
        raise CheckpointError(f"manifest {manifest.name} does not name {error.args[0]}") from error
    snapshots = [read_snapshot(storage, file) for file in files]
    return snapshots[0] if then == count else reshard(snapshots, count)[index]


def _groups(snapshot: Snapshot) -> list[str]:
    return [name.removesuffix("_ids") for name in snapshot if name.endswith("_ids")]


def _joined(snapshots: Sequence[Snapshot], name: str) -> NDArray[Any]:
    return np.concatenate([snapshot[name] for snapshot in snapshots], axis=-1)


def _check_shared(shared: Snapshot, other: Snapshot, by_prompt: Sequence[str], index: int) -> None:
    if other.keys() != {*shared, *by_prompt}:
        raise CheckpointError(f"the snapshot of shard {index} is of another kind of selector")
    for name, value in shared.items():
        if not np.array_equal(value, other[name]):
            raise CheckpointError(
                f"the snapshots of shards 0 and {index} are not of one run and step: their {name} is "
                f"{value} and {other[name]}"
            )


def _one_row(array: NDArray[Any]) -> pa.Array:
    values = pa.array(array.ravel())
    return pa.LargeListArray.from_arrays(pa.array([0, len(values)], pa.int64()), values)


def _array(column: pa.Array, shape: Sequence[int]) -> NDArray[Any]:
    values: NDArray[Any] = column[0].values.to_numpy(zero_copy_only=False)
    return values.reshape(shape).copy()
