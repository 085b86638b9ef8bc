"""Files on a local or shared file system that survive a loss of power once a call returns."""

import errno
import os
import secrets
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

T = TypeVar("T")

UNFINISHED = ".part"
"""How the names of files end that are being written, or were when their writer died."""


def write_aside(path: Path, fill: Callable[[BinaryIO], T]) -> T:
    """Have a new file filled under another name beside `path`, and give it that name when it is durable.

    Whatever goes wrong, nothing stands under `path`, and the other file is gone if the system lets it.
    Returns what `fill` did.
    """
    make_folder(path.parent)
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        with part.open("xb") as file:
            result = fill(file)
            _sync_file(file)
        part.rename(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    sync(path.parent)
    return result


def create(path: Path, content: bytes) -> bool:
    """Create this file unless it is there; False when it is. Of several at once, exactly one does."""
    make_folder(path.parent)
    try:
        with path.open("xb") as file:
            file.write(content)
            _sync_file(file)
    except FileExistsError:
        return False
    sync_upwards(path.parent)
    return True


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing, each durable in the one above."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def nearest(path: Path) -> Path:
    """The path, or else the lowest above it that is there."""
    path = Path(os.path.abspath(path))
    return next(place for place in (path, *path.parents) if place.exists())


def prove_writable(folder: Path, size: int = 1 << 20) -> None:
    """Write a file of so many bytes into a folder, or into the lowest above it that is there, and remove it.

    Raises:
        OSError: the folder cannot be made, or has no room, or may not be written to.
    """
    place = nearest(folder)
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "is a file and no folder", str(place))
    file = place / f".{secrets.token_hex(8)}{UNFINISHED}"
    try:
        with file.open("xb") as probe:
            probe.write(bytes(size))
            _sync_file(probe)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(place)) from None
    finally:
        with suppress(OSError):
            file.unlink()


def sync_tree(folder: Path, files: Collection[Path]) -> None:
    """Make durable these files, which another program wrote into a folder, and the folder itself."""
    for inner in folder.rglob("*"):
        if inner.is_dir() or inner in files:
            sync(inner)
    sync_upwards(folder)


def sync_upwards(folder: Path) -> None:
    """Make a folder durable, whoever made it and those above it."""
    for each in (folder, *folder.parents):
        with suppress(PermissionError):  # not ours, so not made by this run
            sync(each)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has no such thing for folders
            raise
    finally:
        os.close(handle)


def _sync_file(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
