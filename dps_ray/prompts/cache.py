"""What was computed from data files, kept in a folder for the next start.

An entry is a folder named by its key, with arrays as .npy files and a small JSON, or with another file:

    KEY/entry.json    {"sha256": of the content, "content": {key, files: {name: sha256}, meta}}
    KEY/NAME.npy

`key_of` makes the key from the identities of the files that an entry was computed from, so an entry of a changed file
is never found. Every file is hashed when it is loaded. An entry that is damaged, cut short or misplaced is
computed again. Entries are written under another name and renamed, so another process sees a whole entry or none.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dps_ray.errors import mendable

_FORMAT = 1  # part of every key; raise it when what is computed from files changes
_ENTRY, _ARRAY, _PART = "entry.json", ".npy", ".part"
_DAY = 86_400.0

Identity = Sequence[str | int]
Make = Callable[[], "Entry"]


class Entry(NamedTuple):
    """What is kept under a key. Loaded arrays are read-only and memory-mapped."""

    arrays: Mapping[str, NDArray[Any]]
    meta: Mapping[str, Any]  # serialisable as JSON


def key_of(purpose: str, files: Sequence[Identity], **parameters: object) -> str:
    """The key of what is computed for `purpose` from these files, in this order, with these parameters."""
    what = [_FORMAT, purpose, [list(each) for each in files], parameters]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


class Cache:
    """Keeps entries in a folder, and removes those used least recently when there are too many.

    Args:
        tell: called once with a message if the folder cannot be written. Results are then not kept.
        entries, size: the number of entries to keep, and the bytes that they may take in all.
    """

    def __init__(
        self,
        folder: Path,
        tell: Callable[[str], None],
        entries: int = 100,
        size: int = 20 << 30,
    ) -> None:
        self.folder = folder
        self._tell = tell
        self._entries = entries
        self._size = size
        self._told = False

    def kept(self, key: str, make: Make) -> Entry:
        """The entry under this key. If there is no intact one, it is made and kept."""
        found = self.get(key)
        return self.put(key, make()) if found is None else found

    def kept_file(self, key: str, name: str, write: Callable[[Path], None]) -> Path | None:
        """The path of a file under this key. If there is no intact one, `write` writes it. None if that fails because
        of the folder."""
        if self._intact(key) is None and self._write(key, {}, lambda at: write(at / name)) is None:
            return None
        return self.folder / key / name

    def get(self, key: str) -> Entry | None:
        """The entry under this key, or None if there is none or it is damaged."""
        content = self._intact(key)
        try:
            return None if content is None else _loaded(self.folder / key, content)
        except OSError:  # another process has just removed it
            return None

    def put(self, key: str, entry: Entry) -> Entry:
        """Keeps an entry and returns it, with its arrays memory-mapped. If it cannot be written, returns it as it is."""

        def write(folder: Path) -> None:
            for name, array in entry.arrays.items():
                np.save(folder / f"{name}{_ARRAY}", array, allow_pickle=False)

        content = self._write(key, entry.meta, write)
        return entry if content is None else _loaded(self.folder / key, content)

    def _intact(self, key: str) -> dict[str, Any] | None:
        """The content of an entry's JSON if the entry is whole, otherwise None."""
        folder = self.folder / key
        try:
            content = _content(folder)
            if content["key"] != key or any(
                _digest_of(folder / name) != digest for name, digest in content["files"].items()
            ):
                return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
        with suppress(OSError):  # the folder of another user may be read and not changed
            os.utime(folder / _ENTRY)
        return content

    def _write(
        self, key: str, meta: Mapping[str, Any], write: Callable[[Path], None]
    ) -> dict[str, Any] | None:
        """Makes an entry of the files that `write` writes into a folder, and returns the content of its JSON, or None
        if the folder is full or may not be written."""
        folder = self.folder / key
        part = self.folder / f"{key}.{secrets.token_hex(4)}{_PART}"
        try:
            part.mkdir(parents=True)
            write(part)
            files = {file.name: _digest_of(file) for file in part.iterdir()}
            content = {"key": key, "files": files, "meta": dict(meta)}
            whole = {"sha256": _hash_of_json(content), "content": content}
            (part / _ENTRY).write_text(json.dumps(whole))
            with suppress(FileNotFoundError):
                # A damaged entry. Renamed first, because another process may be reading it.
                replaced = part.with_name(f"{key}.{secrets.token_hex(4)}{_PART}")
                folder.rename(replaced)
                shutil.rmtree(replaced, ignore_errors=True)
            part.rename(folder)
            self._prune(key)
            return content
        except OSError as error:
            same = error.errno in (errno.ENOTEMPTY, errno.EEXIST)  # another process kept it first
            if same and (kept := self._intact(key)) is not None:
                return kept
            if not self._told:
                self._told = True
                self._tell(
                    f"what was found out about the data cannot be kept in {self.folder}: {mendable(error) or error}; "
                    "the next start will read the data again"
                )
            return None
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _prune(self, keep: str) -> None:
        """Removes entries beyond the limits, except `keep`, and remains of writers that were killed."""
        used = []
        for folder in self.folder.iterdir():
            with suppress(OSError):
                if folder.suffix == _PART:
                    if time.time() - folder.stat().st_mtime > _DAY:
                        shutil.rmtree(folder, ignore_errors=True)
                elif folder.name != keep and (folder / _ENTRY).exists():
                    size = sum(file.stat().st_size for file in folder.iterdir())
                    used.append(((folder / _ENTRY).stat().st_mtime_ns, size, folder))
        total = sum(file.stat().st_size for file in (self.folder / keep).iterdir())
        for count, (_, size, folder) in enumerate(sorted(used, reverse=True), start=2):
            total += size
            if count > self._entries or total > self._size:
                shutil.rmtree(folder, ignore_errors=True)


def _content(folder: Path) -> dict[str, Any]:
    """The content of an entry's JSON, checked against its hash. Raises ValueError if they differ."""
    whole = json.loads((folder / _ENTRY).read_bytes())
    content: dict[str, Any] = whole["content"]
    if whole["sha256"] != _hash_of_json(content):
        raise ValueError(f"{folder / _ENTRY} is damaged")
    return content


def _hash_of_json(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest_of(path: Path) -> str:
    # Read and not mapped, so that checking does not count as memory of the process.
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _loaded(folder: Path, content: Mapping[str, Any]) -> Entry:
    arrays = {
        name.removesuffix(_ARRAY): np.load(folder / name, mmap_mode="r", allow_pickle=False)
        for name in content["files"]
        if name.endswith(_ARRAY)
    }
    return Entry(arrays, content["meta"])
