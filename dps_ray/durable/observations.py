"""The observation log: one file per step, durable before the beliefs are updated.

    log/e0007/step=00000042.arrow     columns id, state, successes, responses; also cluster and rank if the
                                      method learns by clusters, mean and deviation if it learns from
                                      rewards, and source with `data.weights`; ascending by id

A belief shard is restored from its checkpoint and the log entries of this epoch after it. The logs of earlier
epochs also contain steps that were rolled back; `committed` yields only the steps that count.
"""

import hashlib
import re
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa

from dps_ray.beliefs.states import Observation
from dps_ray.durable.epochs import check_owner, epoch_name
from dps_ray.durable.files import Storage
from dps_ray.durable.manifest import Manifest
from dps_ray.errors import CheckpointError

# Columns by the fields of `Observation`. A file has the optional columns that the observation has.
_ALWAYS = {
    "ids": pa.field("id", pa.int64()),
    "states": pa.field("state", pa.int8()),
    "successes": pa.field("successes", pa.int16()),
    "responses": pa.field("responses", pa.int16()),
}
_FIELDS = {
    **_ALWAYS,
    "clusters": pa.field("cluster", pa.int32()),
    "ranks": pa.field("rank", pa.int32()),
    "means": pa.field("mean", pa.float64()),
    "deviations": pa.field("deviation", pa.float64()),
    "sources": pa.field("source", pa.int16()),
}
_STEP = re.compile(r".*/step=(\d+)\.arrow")


class ObservationLog:
    """The observations of one epoch, by step."""

    def __init__(self, storage: Storage, epoch: int) -> None:
        self._storage = storage
        self._epoch = epoch
        self._folder = f"log/{epoch_name(epoch)}"

    def append(self, step: int, observation: Observation) -> None:
        """Writes the observation of this step. It is durable when this returns.

        Appending the same observation again, for example after a lost reply, changes nothing.

        Raises:
            ValueError: the ids are not ascending.
            OwnershipError: a newer driver has claimed the run.
            CheckpointError: the log holds a different observation of this step, or the write failed.
        """
        if np.any(observation.ids[1:] <= observation.ids[:-1]):
            raise ValueError(f"the observation of step {step} is not ascending by id")
        check_owner(self._storage, self._epoch)
        path, observation = self._path(step), _of_schema(observation)
        if not self._storage.exists(path):
            self._storage.write(path, _encoded(self._epoch, step, observation))
        elif _digest(self._epoch, step, self.read(step)) != _digest(self._epoch, step, observation):
            raise CheckpointError(
                f"{self._storage.root}/{path} holds another observation of step {step}; claim a new epoch to "
                "repeat steps"
            )

    def read(self, step: int) -> Observation:
        """The observation of this step.

        Raises:
            CheckpointError: the log has no such step, or its file was altered.
        """
        path = self._path(step)
        content = self._storage.content(path)
        try:
            return _decoded(self._epoch, step, content)
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{self._storage.root}/{path} was altered or truncated: {error}"
            ) from error

    def steps(self) -> list[int]:
        """The steps in the log, ascending."""
        found = map(_STEP.fullmatch, self._storage.list(self._folder))
        return sorted(int(match[1]) for match in found if match)

    def steps_after(self, step: int) -> Iterator[tuple[int, Observation]]:
        """All later steps with their observations, ascending.

        Raises:
            CheckpointError: the steps after `step` are not consecutive; the message names the missing one.
        """
        later = [each for each in self.steps() if each > step]
        for before, here in pairwise([step, *later]):
            if here != before + 1:
                raise CheckpointError(
                    f"{self._storage.root}/{self._folder} lacks step {before + 1}, and has step {here}"
                )
            yield here, self.read(here)

    def _path(self, step: int) -> str:
        return f"{self._folder}/step={step:08}.arrow"


def committed(storage: Storage, manifest: Manifest) -> Iterator[tuple[int, Observation]]:
    """Every step that led to this manifest with its observation, from the first step on. Steps that were lost or
    rolled back are left out.

    Raises:
        CheckpointError: the log of a step is missing or was altered.
    """
    ends = [segment.after for segment in manifest.lineage[1:]] + [manifest.step]
    for segment, end in zip(manifest.lineage, ends, strict=True):
        log = ObservationLog(storage, segment.epoch)
        for step in range(segment.after + 1, end + 1):
            yield step, log.read(step)


def _encoded(epoch: int, step: int, observation: Observation) -> pa.Buffer:
    digest = _digest(epoch, step, observation)
    columns = _present_columns(observation)
    schema = pa.schema([_FIELDS[name] for name in columns]).with_metadata(
        {"epoch": str(epoch), "step": str(step), "sha256": digest}
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(list(columns.values()), schema=schema))
    return sink.getvalue()


def _decoded(epoch: int, step: int, content: pa.Buffer) -> Observation:
    table = pa.ipc.open_file(content).read_all()
    fields = {field.name: name for name, field in _FIELDS.items()}
    names = [fields.get(column, column) for column in table.schema.names]
    if not {*_ALWAYS} <= {*names} or [*table.schema] != [_FIELDS.get(name) for name in names]:
        raise ValueError(f"its columns are {table.schema.names}")
    observation = Observation(
        **{name: column.to_numpy() for name, column in zip(names, table.columns, strict=True)}
    )
    stated = (table.schema.metadata or {}).get(b"sha256", b"").decode()
    if _digest(epoch, step, observation) != stated:
        raise ValueError("its checksum is wrong")
    return observation


def _of_schema(observation: Observation) -> Observation:
    """The observation with the dtypes of the file's columns. The checksum covers their bytes, so it must be computed
    on the same dtypes before writing and after reading."""
    return Observation(
        **{
            name: np.asarray(column, _FIELDS[name].type.to_pandas_dtype())
            for name, column in _present_columns(observation).items()
        }
    )


def _present_columns(observation: Observation) -> dict[str, np.ndarray]:
    """The columns that the observation has, by field name."""
    return {name: column for name, column in observation._asdict().items() if column is not None}


def _digest(epoch: int, step: int, observation: Observation) -> str:
    digest = hashlib.sha256(np.array([epoch, step, len(observation.ids)], np.int64).tobytes())
    for column in _present_columns(observation).values():
        digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest()
