"""Normalises the Arrow types of prompt files, because writers use different types for the same values.

pandas writes `large_string`, polars `large_list` and `fixed_size_list`, and DataFusion `string_view`; categories are
written as dictionaries. Each decoded batch is cast once, to the types that `one_type` returns:

    large_list, fixed_size_list, list_view           list
    string_view, dictionary of strings               large_string
    binary_view                                      large_binary
    dictionary of other values                       the type of those values
    text in data_source and prompt, bytes included   string

The cast changes neither the values nor the ids that are made from them.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

_TEXT_COLUMNS = ("data_source", "prompt")
_TEXTFIELDS = ("role", "content", "type", "text")  # of messages, and of the parts of contents


class NotTextError(ValueError):
    """A text column holds bytes that are not UTF-8. `row` counts from the first row of the array."""

    def __init__(self, row: int) -> None:
        super().__init__("holds bytes that are not UTF-8; write it as text")
        self.row = row


def batches(
    file: pq.ParquetFile,
    size: int,
    columns: Sequence[str] | None = None,
    groups: Sequence[int] | None = None,
    threads: bool = False,
) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a file, at most `size` at a time. `columns` and `groups` select columns and row groups; None
    selects all.

    Arrow cannot combine nested dictionaries across row groups. polars writes such dictionaries for categories in a
    struct. A file with such a column is read one row group at a time.
    """
    together = [list(range(file.num_row_groups)) if groups is None else groups]
    if any(
        _holds(pa.types.is_dictionary, inner)
        for kind in file.schema_arrow.types
        for inner in _inner(kind)
    ):
        together = [[group] for group in together[0]]
    for some in together:
        yield from file.iter_batches(size, row_groups=some, columns=columns, use_threads=threads)


def one_type(field: pa.Field) -> pa.DataType:
    """The type that a file's column is cast to, from the table above."""
    return _one_type(field.type, field.name in _TEXT_COLUMNS)


def cast(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Casts the values to another type; returns the same array if they already have it.

    Raises:
        NotTextError: the values are bytes that are not UTF-8, and `kind` is a text type.
    """
    if values.type == kind:
        return values
    values = _without_list_views(values)
    try:
        return values.cast(kind)
    except pa.ArrowInvalid:
        for row in range(len(values)):
            # Casting a slice of a list array would also cast the list values outside the slice, so the row is rebuilt.
            try:
                pa.array([values[row].as_py()], kind)
            except pa.ArrowInvalid:
                raise NotTextError(row) from None
        raise


def is_text(kind: pa.DataType) -> bool:
    """Whether values of this type are text, or bytes that `cast` can decode to text."""
    return _is_string(kind) or _is_bytes(kind)


def lists(lengths: pa.Array, values: pa.Array) -> pa.ListArray:
    """Splits the values into consecutive lists of these lengths. A list is null where its length is null."""
    ends = np.cumsum(lengths_of(lengths), dtype=np.int32)
    starts_and_end = pa.array(np.concatenate((np.zeros(1, dtype=np.int32), ends)))
    missing = lengths.is_null() if lengths.null_count else None
    return pa.ListArray.from_arrays(starts_and_end, values, mask=missing)


def lengths_of(lengths: pa.Array) -> NDArray[np.int32]:
    """The lengths as int32, with 0 where a length is null."""
    filled: NDArray[np.int32] = pc.fill_null(lengths, 0).to_numpy()
    return filled


def _one_type(kind: pa.DataType, text: bool) -> pa.DataType:
    """As `one_type`. `text`: whether strings and bytes of this type hold prompt text or a data source's name."""
    if pa.types.is_dictionary(kind):
        values = _one_type(kind.value_type, text)
        return pa.large_string() if _is_string(values) and not text else values
    if _is_list(kind):
        return pa.list_(kind.value_field.with_type(_one_type(kind.value_type, text)))
    if pa.types.is_struct(kind):
        return pa.struct(
            [
                field.with_type(_one_type(field.type, text and field.name in _TEXTFIELDS))
                for field in kind
            ]
        )
    if text and is_text(kind):
        return pa.string()
    if pa.types.is_string_view(kind):
        return pa.large_string()
    return pa.large_binary() if pa.types.is_binary_view(kind) else kind


def _holds(wanted: Callable[[pa.DataType], bool], kind: pa.DataType) -> bool:
    """Whether `wanted` is true of a type or of a type nested in it."""
    return wanted(kind) or any(_holds(wanted, inner) for inner in _inner(kind))


def _inner(kind: pa.DataType) -> list[pa.DataType]:
    return [kind.field(place).type for place in range(kind.num_fields)]


def _is_list_view(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def _without_list_views(values: pa.Array) -> pa.Array:
    """The values with list views converted to lists.

    Arrow's own cast ignores the sizes of a list view and reads past the end of its offsets
    (github.com/apache/arrow/pull/50976).
    """
    kind = values.type
    if not _holds(_is_list_view, kind):
        return values
    if pa.types.is_struct(kind):
        fields = [_without_list_views(pc.struct_field(values, [i])) for i in range(kind.num_fields)]
        names = [field.name for field in kind]
        return pa.StructArray.from_arrays(fields, names, mask=values.is_null())
    return lists(pc.list_value_length(values), _without_list_views(values.flatten()))


def _is_list(kind: pa.DataType) -> bool:
    return any(
        holds(kind)
        for holds in (
            pa.types.is_list,
            pa.types.is_large_list,
            pa.types.is_fixed_size_list,
            _is_list_view,
        )
    )


def _is_string(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )
