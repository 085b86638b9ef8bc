"""Readers of files of rows: all rows in batches, or those of chosen groups.

A group is what has to be decoded as a whole to read one of its rows: a row group of Parquet, a record batch of Arrow.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dps_ray.errors import DataError
from dps_ray.prompts.arrow_types import batches
from dps_ray.prompts.cache import Cache
from dps_ray.prompts.json_lines import as_parquet
from dps_ray.prompts.places import DataFile


class Reader(Protocol):
    """A file of rows.

    file:       the file that is read, which may be a copy of the one asked for
    group_ends: int64 (groups,), the number of rows up to the end of each group
    """

    file: DataFile
    schema: pa.Schema
    group_ends: NDArray[np.int64]

    def batches(
        self, size: int, columns: Sequence[str], groups: Sequence[int] | None
    ) -> Iterator[pa.RecordBatch]:
        """Yields the rows of these groups, or all rows, at most `size` at a time.

        columns: names, or paths to fields of structs, which then may come with the other fields.
        """
        ...


def reader_of(file: DataFile, cache: Cache | None) -> Reader:
    """Opens a file.

    cache: keeps a copy in Parquet of a file that has no random access.

    Raises:
        DataError: the file is empty or is not of its kind.
    """
    if file.kind == "parquet":
        return ParquetReader(file, _parquet(file))
    if file.kind == "arrow" and file.is_local:
        return ArrowReader(file)
    copy = as_parquet(file, cache)
    copied = file._replace(root="", path=str(copy.path), kind="parquet")
    return ParquetReader(copied, pq.ParquetFile(copy.path, memory_map=True), copy)


class ParquetReader:
    """Reads a Parquet file. `copy` is kept alive as long as the reader."""

    def __init__(self, file: DataFile, parquet: pq.ParquetFile, copy: object = None) -> None:
        self.file = file
        self._parquet = parquet
        self._copy = copy
        self.schema: pa.Schema = parquet.schema_arrow
        metadata = parquet.metadata
        sizes = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
        self.group_ends: NDArray[np.int64] = np.cumsum(sizes, dtype=np.int64)

    def batches(
        self, size: int, columns: Sequence[str], groups: Sequence[int] | None
    ) -> Iterator[pa.RecordBatch]:
        # Threads decode columns in parallel, but for single small groups starting them takes longer than decoding.
        threads = groups is None
        return batches(self._parquet, size, list(columns), groups, threads)


class ArrowReader:
    """Reads an Arrow file of this machine, a stream as `datasets` writes it or a file with a footer. It is
    memory-mapped: values are read from disk when they are used."""

    def __init__(self, file: DataFile) -> None:
        self.file = file
        mapped = pa.memory_map(file.path)
        try:
            if mapped.read_at(6, 0) == b"ARROW1":
                whole = pa.ipc.open_file(mapped)
                self._batches = [whole.get_batch(i) for i in range(whole.num_record_batches)]
            else:
                whole = pa.ipc.open_stream(mapped)
                self._batches = list(whole)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file.name} is not an Arrow file: {error}") from error
        self.schema: pa.Schema = whole.schema
        self.group_ends: NDArray[np.int64] = np.cumsum(
            [len(batch) for batch in self._batches], dtype=np.int64
        )

    def batches(
        self, size: int, columns: Sequence[str], groups: Sequence[int] | None
    ) -> Iterator[pa.RecordBatch]:
        names = list(dict.fromkeys(column.partition(".")[0] for column in columns))
        for group in range(len(self._batches)) if groups is None else groups:
            batch = self._batches[group].select(names)
            for start in range(0, len(batch), size):
                yield batch.slice(start, size)


def _parquet(file: DataFile) -> pq.ParquetFile:
    try:
        if file.is_local:
            if Path(file.path).stat().st_size == 0:
                raise DataError(f"{file.name} is empty (0 bytes); write it again")
            return pq.ParquetFile(file.path, memory_map=True)
        return pq.ParquetFile(file.open(), pre_buffer=True)
    except FileNotFoundError:
        raise DataError(
            f"there is no file {file.name}; name a Parquet file, or a folder of them"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file.name} is not a Parquet file: {error}") from error
