"""Finding the files that a setting such as `data.train` names."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dps_ray.errors import DataError
from dps_ray.prompts.cache import Identity

_PARQUET = b"PAR1"
_END = 64 << 10  # bytes hashed at each end of a file without a footer

Place = str | Path


class Found(NamedTuple):
    """A file of prompts.

    source:   the position of the entry that named it in the list given to `find`
    identity: what changes when the file does
    """

    path: Path
    source: int
    identity: Identity

    def check_unchanged(self) -> None:
        """Raises DataError if the file is another than the one that was found."""
        if identity(self.path) != self.identity:
            raise DataError(f"{self.path} has changed since it was opened; start again")


def find(path: Place | Sequence[Place]) -> list[Found]:
    """The files that a path, a folder, or a list of these refers to.

    Raises:
        DataError: there is no such file, or a folder has no Parquet files.
    """
    entries = [path] if isinstance(path, str | Path) else path
    return [
        Found(file, source, identity(file))
        for source, entry in enumerate(entries)
        for file in _files(Path(entry))
    ]


def identity(path: Path) -> Identity:
    """What changes when a file does: absolute path, size, time of change, and a hash of its Parquet footer, or of its
    first and last bytes if it has none.

    Raises:
        DataError: there is no such file.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}; name a Parquet file, or a folder of them")
    with path.open("rb") as file:
        about = os.fstat(file.fileno())
        file.seek(max(0, about.st_size - 8))
        length, magic = int.from_bytes(file.read(4), "little"), file.read(4)
        if magic == _PARQUET and length + 8 <= about.st_size:
            file.seek(about.st_size - 8 - length)
            ends = file.read()
        else:
            file.seek(0)
            ends = file.read(_END)
            file.seek(max(0, about.st_size - _END))
            ends += file.read()
    return os.path.abspath(path), about.st_size, about.st_mtime_ns, hashlib.sha256(ends).hexdigest()


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.parquet"))
    if not files:
        raise DataError(
            f"the folder {path} has no .parquet files; name another folder, or one Parquet file"
        )
    return files
