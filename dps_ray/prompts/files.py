"""Files of prompts in verl's schema: checks, random access to rows, writing.

`dps_ray.prompts.schema` lists the columns, and `dps_ray.prompts.places` says where files may lie.

Files are decoded batch by batch, so memory is bounded by the batch, not the file. Reading one row of a Parquet file
decodes its whole row group. Small row groups keep random reads fast: `write_prompts` makes groups of 1,024 rows, and
a few dozen rows are enough with images. Large row groups, such as pandas writes, work but are slower.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dps_ray.errors import DataError
from dps_ray.prompts.arrow_types import NotTextError, cast, is_text, one_type
from dps_ray.prompts.cache import Cache
from dps_ray.prompts.ids import hashes_of
from dps_ray.prompts.image_files import encoded
from dps_ray.prompts.messages import (
    FIELD,
    as_messages,
    holds_any,
    marked_messages,
    message_texts,
    other_part,
)
from dps_ray.prompts.places import DataFile, local
from dps_ray.prompts.readers import reader_of
from dps_ray.prompts.schema import OPTIONAL, REQUIRED, check_schema, has_values

_BATCH = 16_384  # rows decoded at a time
_BATCH_WITH_IMAGES = 256
# Matches the start of a list of messages that was written as text, by JSON or by Python's `repr`.
_PRINTED_MESSAGES = r"""^\s*\[\s*\{\s*['"](role|content)['"]\s*:"""


class Keys(NamedTuple):
    """What identifies some rows of a file.

    contents: int64 (n,), hashes of all that a reward depends on: data source, roles and contents, ground truth
    ids:      int64 (n,), from the id column, or None without one
    """

    contents: NDArray[np.int64]
    ids: NDArray[np.int64] | None


class PromptFile:
    """One file with the columns of the schema.

    name: for messages

    The constructor raises DataError if the file cannot be read or its columns differ.
    """

    def __init__(
        self, file: Path | DataFile, id_column: str | None, cache: Cache | None = None
    ) -> None:
        self._file = local(file) if isinstance(file, Path) else file
        self.name = self._file.name
        self.id_column = id_column
        self._reader = reader_of(self._file, cache)
        self._schema = self._reader.schema
        self._group_ends = self._reader.group_ends
        check_schema(self._schema, self.name, id_column)

    def __len__(self) -> int:
        return int(self._group_ends[-1]) if len(self._group_ends) else 0

    def checked_keys(self, groups: list[int] | None = None, first: int = 0) -> Iterator[Keys]:
        """Checks every row, or those of some groups after the first `first` rows, and yields their keys in batches."""
        columns = ["data_source", "prompt", "reward_model.ground_truth"]
        if self.id_column:
            columns.append(self.id_column)
        for batch in self._batches(columns, groups, first):
            sources, truths = self._checked_fields(batch, first)
            messages = self._checked_messages(batch["prompt"], first)
            contents = hashes_of(pc.binary_join_element_wise(sources, messages, truths, FIELD))
            column = self.id_column
            yield Keys(contents, self._checked_ids(batch[column], first) if column else None)
            first += len(batch)

    def texts(self, groups: list[int] | None = None) -> Iterator[pa.StringArray]:
        """Yields the texts of all prompts, or of those in some groups, batch by batch."""
        for batch in self._batches(["prompt"], groups):
            yield message_texts(batch["prompt"])

    def values(self, column: str) -> Iterator[pa.DictionaryArray]:
        """Yields a column's values batch by batch, as dictionary-encoded strings. `column` holds strings or integers,
        and may be a path to a field of a struct.

        Raises:
            DataError: the column is missing or has another type, or a value is missing.
        """
        kind: pa.DataType = pa.struct(list(self._schema))
        for name in column.split("."):
            if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
                known = (
                    ", ".join(field.name for field in kind) if pa.types.is_struct(kind) else "none"
                )
                raise DataError(
                    f"{self.name} has no column {column!r}: there is no {name!r} (there is: {known}); name "
                    "another column as selector.cluster_column"
                )
            kind = kind.field(name).type
        read = one_type(pa.field(column, kind))
        if not (is_text(read) or pa.types.is_integer(read)):
            raise DataError(
                f"{self.name}, column {column!r}: the type is {kind}; make it strings or integers"
            )
        first, (top, *fields) = 0, column.split(".")
        for batch in self._batches([column]):
            values = batch[top]
            for field in fields:
                values = pc.struct_field(values, field)
            hint = "is null; selector.cluster_column needs a value in every row"
            self._refuse(pc.is_null(values), first, column, hint)
            yield self._cast(values, pa.string(), first, column).dictionary_encode()
            first += len(batch)

    def take(self, rows: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """The given rows, ascending and unique, with these columns; prompts are converted to lists of messages."""
        wanted_groups = np.unique(np.searchsorted(self._group_ends, rows, side="right"))
        sizes = np.diff(self._group_ends, prepend=0)[wanted_groups]
        # Positions of the wanted rows within the concatenation of the wanted groups alone:
        skipped = self._group_ends[wanted_groups] - np.cumsum(sizes)
        places = rows - skipped[np.searchsorted(self._group_ends[wanted_groups], rows, "right")]

        taken, start = [], 0
        for batch in self._batches(columns, wanted_groups.tolist()):
            here = slice(*np.searchsorted(places, (start, start + len(batch))))
            taken.append(batch.take(pa.array(places[here] - start)))
            start += len(batch)
            if here.stop == len(places):
                break
        table = pa.Table.from_batches(taken)
        if "prompt" not in table.column_names:
            return table
        messages = as_messages(table["prompt"].combine_chunks())
        return table.set_column(table.column_names.index("prompt"), "prompt", messages)

    def groups_of(self, rows: int) -> Iterator[tuple[list[int], int]]:
        """Yields the file's groups in parts of about so many rows, each with the number of rows before it."""
        starts = np.concatenate(([0], self._group_ends))[:-1]
        parts = np.unique(starts // rows, return_index=True)[1].tolist()
        for first, end in pairwise([*parts, len(starts)]):
            yield list(range(first, end)), int(starts[first])

    @property
    def readable(self) -> DataFile:
        """The file that the rows are read from: a copy in Parquet, where there is one."""
        return self._reader.file

    def columns(self) -> list[str]:
        """The columns of this file that a `Prompt` is made from."""
        return [*REQUIRED, *(name for name in OPTIONAL if has_values(self._schema, name))]

    @property
    def holds_strings(self) -> bool:
        """Whether each prompt is a string instead of a list of messages."""
        return bool(pa.types.is_string(one_type(self._schema.field("prompt"))))

    def digest(self) -> bytes:
        """SHA-256 of the file's bytes."""
        return self._file.digest()

    def image(self, entry: Any) -> bytes:
        """The encoded image in an entry of the column `images`. Paths are relative to the file's folder.

        Raises:
            ValueError: there is none; the message says why.
        """
        return encoded(entry, self._file.read_beside)

    def _batches(
        self, columns: Sequence[str], groups: list[int] | None = None, first: int = 0
    ) -> Iterator[pa.RecordBatch]:
        size = _BATCH_WITH_IMAGES if "images" in columns else _BATCH
        try:
            for batch in self._reader.batches(size, columns, groups):
                yield self._in_one_form(batch, first)
                first += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.name} cannot be read: {error}; make the file again") from error

    def _in_one_form(self, batch: pa.RecordBatch, first: int) -> pa.RecordBatch:
        for place, field in enumerate(batch.schema):
            kind = one_type(field)
            if kind != field.type:
                column = self._cast(batch[place], kind, first, field.name)
                batch = batch.set_column(place, field.with_type(kind), column)
        return batch

    def _cast(self, values: pa.Array, kind: pa.DataType, first: int, column: str) -> pa.Array:
        try:
            return cast(values, kind)
        except NotTextError as error:
            row = first + error.row
            raise DataError(f"{self.name}, row {row}, column {column!r}: {error}") from None

    def _checked_fields(self, batch: pa.RecordBatch, first: int) -> tuple[pa.Array, pa.Array]:
        sources = batch["data_source"]
        missing = pc.fill_null(pc.equal(sources, ""), True)
        self._refuse(missing, first, "data_source", "is empty; name the task that scores the row")
        truths = pc.struct_field(batch["reward_model"], "ground_truth")
        hint = "is null; give what the reward function compares responses with, or '' for nothing"
        self._refuse(pc.is_null(truths), first, "reward_model.ground_truth", hint)
        return sources, _as_text(truths)

    def _checked_messages(self, prompts: pa.Array, first: int) -> pa.StringArray:
        if self.holds_strings:
            hint = "is the text of a list of messages; write the list itself, not its JSON"
            printed = pc.match_substring_regex(prompts, _PRINTED_MESSAGES)
            self._refuse(printed, first, "prompt", hint)
        part = other_part(prompts)
        if part is not None:
            raise DataError(
                f"{self.name}, row {first + part.row}, column 'prompt.content': holds a part of {part.what}; "
                "write texts only: mark an image with `<image>` and put it in the column 'images'"
            )
        messages = as_messages(prompts)
        hint = "is empty; give at least one message {role, content}"
        lengths = pc.fill_null(pc.list_value_length(messages), 0)
        self._refuse(pc.equal(lengths, 0), first, "prompt", hint)
        for name in ("role", "content"):
            holes = pc.is_null(pc.struct_field(messages.flatten(), name))
            if pc.any(holes).as_py():
                hint = f"is null; give each message a {name}"
                self._refuse(holds_any(messages, holes), first, f"prompt.{name}", hint)
        texts = message_texts(messages)
        blank = pc.or_(pc.equal(texts, ""), pc.utf8_is_space(texts))
        self._refuse(blank, first, "prompt", "holds no text; give its messages a content")
        return marked_messages(messages)

    def _checked_ids(self, ids: pa.Array, first: int) -> NDArray[np.int64]:
        column = self.id_column or ""
        self._refuse(pc.is_null(ids), first, column, "is null; give every row an id of its own")
        try:
            checked: NDArray[np.int64] = pc.cast(ids, pa.int64()).to_numpy()
            return checked
        except pa.ArrowInvalid:
            too_large = pc.greater(ids, pa.scalar(2**63 - 1, pa.uint64()))
            self._refuse(too_large, first, column, "does not fit into a signed 64-bit integer")
            raise

    def _refuse(self, wrong: pa.BooleanArray, first: int, column: str, what: str) -> None:
        """Raises a DataError for the first row where `wrong` is true. `first` is the number of the batch's first row."""
        row = pc.index(wrong, True).as_py()
        if row >= 0:
            raise DataError(f"{self.name}, row {first + row}, column {column!r}: {what}")


def write_prompts(
    path: str | Path,
    rows: Iterable[Mapping[str, Any]],
    row_group_size: int = 1024,
    schema: pa.Schema | None = None,
) -> int:
    """Writes rows of verl's schema to a Parquet file suited to random reads, and returns their number.

    Without a schema the types are those of the first row group. The file gets its name only once it is complete.
    Raises DataError if there are no rows, or if a later row has another type.
    """
    path, remaining = Path(path), iter(rows)
    groups = iter(lambda: list(islice(remaining, row_group_size)), [])
    first = next(groups, None)
    if first is None:
        raise DataError(f"there are no prompts to write to {path}")
    schema = _table(first, schema, 0, path).schema
    aside, written = path.with_name(f".{path.name}.{os.getpid()}"), 0
    try:
        with pq.ParquetWriter(aside, schema) as writer:
            for group in chain([first], groups):
                writer.write_table(_table(group, schema, written, path))
                written += len(group)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return written


def _table(
    group: list[Mapping[str, Any]], schema: pa.Schema | None, first: int, path: Path
) -> pa.Table:
    try:
        return pa.Table.from_pylist(group, schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        last = first + len(group) - 1
        raise DataError(
            f"rows {first} to {last} for {path} have different types: {error}"
        ) from error


def _as_text(values: pa.Array) -> pa.Array:
    """Ground truths of any type as strings, for hashing."""
    try:
        return pc.cast(values, pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return pa.array([json.dumps(v, sort_keys=True, default=repr) for v in values.to_pylist()])
