"""Copies in Parquet of files that have no random access: JSON lines, and Arrow streams of another machine.

A copy is written once and kept in the cache. JSON lines are read twice: a first time for the type of each column, which
is the type that holds the values of all rows, a second time for the values.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.json as pj
import pyarrow.parquet as pq

from dps_ray.errors import DataError, mendable
from dps_ray.prompts.cache import Cache, key_of
from dps_ray.prompts.places import DataFile

_BLOCK = 16 << 20  # bytes of JSON parsed at a time
_ROW_GROUP = 1024
_NAME = "copy.parquet"
_ONE_TYPE = "write one object a line, and give a field one type in all lines"


class Copy(NamedTuple):
    """A copy of a file. `folder` removes it with its last reader, where there is no cache."""

    path: Path
    folder: object


def as_parquet(file: DataFile, cache: Cache | None) -> Copy:
    """A copy of the file in Parquet, from the cache if it has one.

    Raises:
        DataError: the file is empty or malformed, or there is no room for a copy.
    """
    copy = _copy_lines if file.kind == "lines" else _copy_stream

    def write(path: Path) -> None:
        copy(file, path)
        file.check_unchanged()

    try:
        if cache is not None:
            kept = cache.kept_file(key_of("copy", [file.identity], kind=file.kind), _NAME, write)
            if kept is not None:
                return Copy(kept, None)
        folder = tempfile.TemporaryDirectory(prefix="dps_ray-")
        path = Path(folder.name) / _NAME
        write(path)
        return Copy(path, folder)
    except OSError as error:
        raise DataError(
            f"{file.name} needs a copy in Parquet, which cannot be made: {mendable(error) or error}; make room, or "
            "write the file as Parquet"
        ) from error


def _copy_stream(file: DataFile, path: Path) -> None:
    with file.open() as source:
        try:
            stream = pa.ipc.open_stream(source)
            with pq.ParquetWriter(path, stream.schema) as writer:
                for batch in stream:
                    writer.write_batch(batch, row_group_size=_ROW_GROUP)
        except pa.ArrowException as error:
            raise DataError(f"{file.name} is not an Arrow file: {error}") from error


def _copy_lines(file: DataFile, path: Path) -> None:
    schema = _schema_of(file)
    with pq.ParquetWriter(path, schema) as writer:
        for first, block in _blocks(file):
            writer.write_table(_parsed(file, first, block, schema), row_group_size=_ROW_GROUP)


def _schema_of(file: DataFile) -> pa.Schema:
    """The type of each column over all rows."""
    known = pa.schema([])
    for first, block in _blocks(file):
        here = _parsed(file, first, block).schema
        plain = {field.name: kind for field in here if (kind := _plain(field.type)) is not None}
        try:
            known = pa.unify_schemas([known, pa.schema(plain)], promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            _parsed(file, first, block, known)  # names the line
            raise DataError(f"{file.name}, after line {first}: {error}; {_ONE_TYPE}") from error
    if not known.names:
        raise DataError(f"{file.name} is empty; write one object a line")
    return known


def _plain(kind: pa.DataType) -> pa.DataType | None:
    """The type that a column is read with, or None if it is left out: texts that look like times are texts, and Parquet
    has no objects without fields."""
    if pa.types.is_temporal(kind):
        return pa.string()
    if pa.types.is_list(kind):
        inner = _plain(kind.value_type)
        return None if inner is None else pa.list_(inner)
    if pa.types.is_struct(kind):
        fields = {field.name: inner for field in kind if (inner := _plain(field.type)) is not None}
        return pa.struct(fields) if fields else None
    return kind


def _blocks(file: DataFile) -> Iterator[tuple[int, bytes]]:
    """Yields a file's whole lines, some megabytes at a time, each with the number of lines before them."""
    first, rest = 0, b""
    with file.open() as source:
        while block := source.read(_BLOCK):
            whole, newline, after = block.rpartition(b"\n")
            rest += whole + newline
            if newline:
                if not rest.isspace():
                    yield first, rest
                first += rest.count(b"\n")
                rest = b""
            rest += after
    if rest and not rest.isspace():
        yield first, rest


def _parsed(file: DataFile, first: int, block: bytes, schema: pa.Schema | None = None) -> pa.Table:
    """The rows in a block of lines. With a schema, other fields are left out.

    Raises:
        DataError: a line is malformed, or a value is not of the schema's type.
    """
    parsing = None
    if schema is not None:
        parsing = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    try:
        block.decode()
        return pj.read_json(
            pa.BufferReader(block), pj.ReadOptions(block_size=len(block) + 1), parsing
        )
    except UnicodeDecodeError as error:
        line = block.count(b"\n", 0, error.start)
        reason = f"{error}; write it in UTF-8"
    except pa.ArrowException as error:
        reason, _, row = str(error).strip().rpartition(" in row ")
        rows = [line for line, text in enumerate(block.split(b"\n")) if text.strip()]
        line = rows[min(int(row), len(rows) - 1)] if row.isdigit() else 0
        reason = f"{reason or error}; {_ONE_TYPE}"
    raise DataError(f"{file.name}, line {first + line + 1}: {reason}")
