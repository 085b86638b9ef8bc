"""Rows of a user's file, JSON, JSONL or Parquet, with their place in it for messages.

Rows count from 0, as elsewhere. JSONL and Parquet are streamed; a JSON file is read whole.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from dps_ray.errors import DataError

_BATCH = 64  # rows of Parquet decoded at a time: they may hold pictures


class Record(NamedTuple):
    """One row of a user's file."""

    file: Path
    row: int
    fields: dict[str, Any]

    def error(self, column: str, what: str) -> DataError:
        """What is wrong with this row's value in a column, as an error to raise."""
        return DataError(f"{self.file}, row {self.row}, column {column!r}: {what}")


class Records:
    """The rows of a file. `size` of them; `columns` are those of the first row, or of the Parquet.

    Raises:
        DataError: the file is missing or empty, is not what its name says, or has no rows; while
            iterating, a row is no object. The message names file and row.
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
        self.size, self._rows = rows(file)
        first = next(self._rows, None)
        if first is None:
            raise DataError(f"{file} has no rows; name one that has")
        self._rows = chain([first], self._rows)
        self.columns = list(self._object(0, first))

    def __iter__(self) -> Iterator[Record]:
        for row, fields in enumerate(self._rows):
            yield Record(self.file, row, self._object(row, fields))

    def column(self, candidates: Sequence[str], wanted: str | None = None, option: str = "") -> str:
        """The column that is wanted, or else the first of the candidates that is there.

        Raises:
            DataError: it is not there; the message says which are, and the option that names one.
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


def _json(file: Path) -> tuple[int, Iterator[Any]]:
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{file} is not JSON: {error.msg} in line {error.lineno}; if each line is an object of its "
            "own, name it .jsonl"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text: {error}; write it again as UTF-8") from error
    if not isinstance(rows, list):
        raise DataError(f"{file} holds no list; write [{{...}}, {{...}}], an object for each row")
    return len(rows), iter(rows)


def _jsonl(file: Path) -> tuple[int, Iterator[Any]]:
    def rows() -> Iterator[Any]:
        with file.open("rb") as lines:
            for row, (number, line) in enumerate(
                (number, line) for number, line in enumerate(lines, 1) if line.strip()
            ):
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise DataError(
                        f"{file}, row {row} (line {number}) is not JSON: {error}; write an object"
                    ) from error

    with file.open("rb") as lines:
        size = sum(1 for line in lines if line.strip())
    return size, rows()


def _parquet(file: Path) -> tuple[int, Iterator[Any]]:
    try:
        parquet = pq.ParquetFile(file, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} is not a Parquet file: {error}") from error

    def rows() -> Iterable[Any]:
        try:
            for batch in parquet.iter_batches(_BATCH, use_threads=False):
                yield from batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file} cannot be read: {error}; make the file again") from error

    return parquet.metadata.num_rows, iter(rows())


_OPENERS = {".json": _json, ".jsonl": _jsonl, ".parquet": _parquet}
