"""Files of one JSON object a line, which a kill at any moment leaves readable.

Each line is handed to the system whole; a process that is killed leaves at most one torn last line, which reading
drops and the next writer cuts off.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from operator import methodcaller
from pathlib import Path
from typing import Any

from dps_ray.errors import DataError


def append(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Adds a line for each record; values that are not finite are left out."""
    with path.open("ab") as file:
        file.write(_lines(records))


def read(path: Path) -> list[dict[str, Any]]:
    """All of `records`."""
    return list(records(path))


def records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file, one at a time; none when there is no file; a torn last line is left out.

    Raises DataError when a line before the last is not JSON.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number} is not JSON ({error}): remove it") from None
            yield record


def forget_after(path: Path, step: int) -> None:
    """Drops the records whose `step` is a later one; does nothing when there is no file."""
    if path.is_file():
        replace(path, _lines(record for record in read(path) if record["step"] <= step))


def cut_torn_line(path: Path) -> None:
    """Drops what follows the last line end, lest the next record be glued to it."""
    if path.is_file():
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            replace(path, content[: content.rfind(b"\n") + 1])


def replace(path: Path, content: bytes) -> None:
    """Writes aside and renames, so that a kill leaves the old file or the new one."""
    aside = path.with_name(path.name + ".partial")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def encode(record: Mapping[str, Any], indent: int | None = None) -> str:
    """One object as JSON: NumPy's and torch's scalars become Python's, values that are not finite are left out."""
    finite = {
        name: value
        for name, value in record.items()
        if not (isinstance(value, float) and not math.isfinite(value))
    }
    return json.dumps(finite, indent=indent, default=methodcaller("item")) + "\n"


def _lines(records: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(map(encode, records)).encode()
