"""Rows of a user's JSON, JSONL or Parquet file, with their row numbers for error messages.

Rows count from 0. JSONL and Parquet files are streamed; a JSON file is read completely.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from dps_ray.errors import DataError
from dps_ray.prompts.arrow_types import batches

_BATCH = 64  # Parquet rows decoded at a time; few, because they may hold pictures

Rows = Callable[[], Iterable[Any]]  # each call starts again at the first row


class Record(NamedTuple):
    """One row of a user's file."""

    file: Path
    row: int
    fields: dict[str, Any]

    def error(self, column: str, what: str) -> DataError:
        """The error to raise for this row's value in a column. `what` says what is wrong with it."""
        return DataError(f"{self.file}, row {self.row}, column {column!r}: {what}")


class Records:
    """The rows of a file; they can be iterated several times. `size` is their number, and `columns` are those of the
    first row.

    Raises:
        DataError: the file is missing or empty, cannot be read, does not match its extension, or has no rows; while
            iterating, a row is not an object. The message names file and row.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        if not file.is_file():
            raise DataError(f"there is no file {file}; name a .json, .jsonl or .parquet file")
        if file.stat().st_size == 0:
            raise DataError(f"{file} is empty (0 bytes); write it again")
        try:
            rows = _OPENERS[file.suffix.lower()]
        except KeyError:
            raise DataError(
                f"{file} is of no known kind; name a file that ends in {', '.join(_OPENERS)}"
            ) from None
        try:
            file.open("rb").close()
        except OSError as error:
            raise DataError(
                f"{file} cannot be read: {error.strerror}; change its permissions, or name a copy"
            ) from error
        self.size, self._rows = rows(file)
        first = next(iter(self), None)
        if first is None:
            raise DataError(f"{file} has no rows; name a file that has rows")
        self.columns = list(first.fields)

    def __iter__(self) -> Iterator[Record]:
        for row, fields in enumerate(self._rows()):
            yield Record(self.file, row, self._object(row, fields))

    def column(self, candidates: Sequence[str], wanted: str | None = None, option: str = "") -> str:
        """The column `wanted`, or without it the first candidate that the file has.

        Raises:
            DataError: the file lacks the column; the message lists its columns and the option that names one.
        """
        if wanted is not None:
            candidates = [wanted]
        found = [name for name in candidates if name in self.columns]
        if not found:
            raise DataError(
                f"{self.file} has no column {' or '.join(map(repr, candidates))} (it has: "
                f"{', '.join(self.columns)}); rename one{f', or name it with {option}' if option else ''}"
            )
        return found[0]

    def _object(self, row: int, fields: Any) -> dict[str, Any]:
        if not isinstance(fields, dict):
            raise DataError(
                f"{self.file}, row {row} is {str(fields)[:60]!r}, no object; write one with a field for "
                'each column, such as {"problem": "...", "answer": "..."}'
            )
        return fields


def _json(file: Path) -> tuple[int, Rows]:
    try:
        rows = json.loads(file.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{file} is not JSON: {error.msg} in line {error.lineno}; if each line is an object of its "
            "own, name it .jsonl"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text: {error}; write it again as UTF-8") from error
    except _UNREADABLE as error:
        raise DataError(f"{file} cannot be read: {error}; write it again without this") from error
    if not isinstance(rows, list):
        raise DataError(f"{file} holds no list; write [{{...}}, {{...}}], an object for each row")
    for row, fields in enumerate(rows):
        try:
            _encoded(fields)
        except ValueError as error:
            raise DataError(f"{file}, row {row} is no text: {error}; write it again") from error
    return len(rows), lambda: rows


def _jsonl(file: Path) -> tuple[int, Rows]:
    def rows() -> Iterator[Any]:
        with file.open("rb") as lines:
            for row, (number, line) in enumerate(
                (number, line) for number, line in enumerate(lines, 1) if line.strip()
            ):
                try:
                    fields = json.loads(line)
                    _encoded(fields)
                except _UNREADABLE as error:
                    raise DataError(
                        f"{file}, row {row} (line {number}) is not JSON: {error}; write an object"
                    ) from error
                yield fields

    with file.open("rb") as lines:
        size = sum(1 for line in lines if line.strip())
    return size, rows


def _parquet(file: Path) -> tuple[int, Rows]:
    try:
        parquet = pq.ParquetFile(file, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} is not a Parquet file: {error}") from error

    def rows() -> Iterator[Any]:
        try:
            for batch in batches(parquet, _BATCH):
                yield from batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file} cannot be read: {error}; make the file again") from error

    return parquet.metadata.num_rows, rows


def _encoded(fields: Any) -> bytes:
    """The row as JSON bytes. Raises ValueError if a text is not valid Unicode: JSON can contain half of a surrogate
    pair, such as \\ud83d, which Parquet cannot store."""
    return json.dumps(fields, ensure_ascii=False).encode()


_UNREADABLE = (
    ValueError,
    RecursionError,
)  # such as numbers of 4,301 digits, lists nested 1,000 deep
_OPENERS = {".json": _json, ".jsonl": _jsonl, ".parquet": _parquet}
