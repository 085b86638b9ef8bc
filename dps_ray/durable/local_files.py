"""Writing files on a local or shared file system; once a call returns, its files survive a loss of power."""

import errno
import os
import secrets
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

T = TypeVar("T")

UNFINISHED = ".part"
"""Suffix of files that are being written, or that were being written when their process died."""


def write_aside(path: Path, fill: Callable[[BinaryIO], T]) -> T:
    """Writes a new file with `fill` under a temporary name beside `path`, renames it once durable, and returns the
    result of `fill`.

    On any error there is no file at `path`, and the temporary file is deleted if the system permits.
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
    """Creates this file and returns True; returns False if it exists. If several processes try at once, exactly one
    succeeds."""
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
    """Makes a folder and its missing parents, and makes each entry durable in its parent."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def nearest(path: Path) -> Path:
    """The path if it exists, otherwise its closest existing parent."""
    path = Path(os.path.abspath(path))
    return next(place for place in (path, *path.parents) if place.exists())


def prove_writable(folder: Path, size: int = 1 << 20) -> None:
    """Writes a file of `size` bytes into a folder, or into its closest existing parent, and removes it again.

    Raises:
        OSError: the folder cannot be made, has too little space, or is not writable.
    """
    place = nearest(folder)
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "is a file and not a folder", str(place))
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
    """Makes durable a folder and these files in it, which another program wrote."""
    for inner in folder.rglob("*"):
        if inner.is_dir() or inner in files:
            sync(inner)
    sync_upwards(folder)


def sync_upwards(folder: Path) -> None:
    """Makes a folder and all its parents durable, no matter which process made them."""
    for each in (folder, *folder.parents):
        with suppress(PermissionError):  # belongs to another user, so this run did not make it
            sync(each)


def sync(path: Path) -> None:
    """Waits until a file's content, or a folder's entries, are durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot fsync folders
            raise
    finally:
        os.close(handle)


def _sync_file(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
