"""Finding the files that a setting such as `data.train` names, on this machine or elsewhere.

data/train.parquet                     a file: .parquet, .jsonl or .json (one object a line), .arrow
data/train                             a folder of .parquet or of .jsonl files
saved                                  a folder that `datasets.Dataset.save_to_disk` wrote
data/**/*.parquet                      a pattern: * and ? within a name, [abc], ** for any folders
s3://bucket/train, gs://bucket/train   Arrow's own file systems; options such as region follow as ?region=...
hf://datasets/NAME/SET@REVISION/data   a data set on the Hugging Face hub
other URIs                             the file systems of fsspec that are installed
"""

import hashlib
import json
import posixpath
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
from fsspec.core import url_to_fs
from pyarrow import fs

from dps_ray.errors import DataError
from dps_ray.prompts.cache import Identity

Place = str | Path
Kind = Literal["parquet", "lines", "arrow"]

_PARQUET = b"PAR1"
_END = 64 << 10  # bytes hashed at each end of a file without a footer
_BLOCK = 4 << 20  # bytes read at a time to hash a whole file
_AT_A_TIME = 16  # files of another machine that are looked at together
_URI = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(?<=:)//[^/@]*:[^/@]*@")
_NATIVE = ("s3://", "gs://")  # Arrow's own file systems
_WILDCARD = re.compile(r"[*?\[]")
_KINDS: dict[str, Kind] = {".jsonl": "lines", ".json": "lines", ".arrow": "arrow"}
_IN_FOLDERS = {".parquet": "Parquet", ".jsonl": "JSON lines"}
# Files of `datasets`' folders.
_STATE, _SPLITS = "state.json", "dataset_dict.json"


class DataFile(NamedTuple):
    """A file of prompts.

    name:     the path or URI, without credentials, for messages and records
    root:     the URI that its file system is made from; "" for this machine's
    path:     within the file system
    source:   the position of the entry that named it in the list given to `find`
    identity: what changes when the file does
    """

    name: str
    root: str
    path: str
    kind: Kind
    source: int
    identity: Identity

    @property
    def is_local(self) -> bool:
        return not self.root

    def open(self) -> pa.NativeFile:
        """The file, for reading at any position."""
        return _file_system(self.root).open_input_file(self.path)

    def read_beside(self, name: str) -> bytes:
        """The content of another file, whose path is relative to this one's folder.

        Raises:
            OSError: it cannot be read.
        """
        folder = self.path.rpartition("/")[0]
        with _file_system(self.root).open_input_stream(
            posixpath.join(folder, name), compression=None
        ) as file:
            content: bytes = file.read()
            return content

    def digest(self) -> bytes:
        """SHA-256 of the file's bytes."""
        digest = hashlib.sha256()
        with self.open() as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        return digest.digest()

    def check_unchanged(self) -> None:
        """Raises DataError if the file is another than the one that was found."""
        if self.identity != _identity(_Folder(self.root), self.path):
            raise DataError(f"{self.name} has changed since it was opened; start again")


def find(place: Place | Sequence[Place]) -> list[DataFile]:
    """The files that a path, a URI, a pattern, or a list of these refers to.

    Raises:
        DataError: there is no such file, or it cannot be reached; a folder has no files of prompts, or has several
            kinds of them.
    """
    entries = [place] if isinstance(place, str | Path) else place
    return [file for source, entry in enumerate(entries) for file in _found(str(entry), source)]


def local(path: Path) -> DataFile:
    """A Parquet file of this machine."""
    return DataFile(str(path), "", str(path), "parquet", 0, ())


class _Folder:
    """A file system, and how messages name its files."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.system = _file_system(root)
        self._prefix = f"{root.partition('://')[0]}://" if root else ""

    def name(self, path: str) -> str:
        return f"{self._prefix}{path.lstrip('/')}" if self._prefix else path

    def about(self, path: str) -> Any:
        return self.system.get_file_info(path)

    def entries(self, path: str) -> list[Any]:
        """What lies in a folder, sorted by name."""
        inside = self.system.get_file_info(fs.FileSelector(path or ".", allow_not_found=True))
        return sorted(inside, key=lambda entry: entry.base_name)

    def json(self, path: str) -> Any:
        with self.system.open_input_stream(path, compression=None) as file:
            return json.loads(file.read())


def _found(entry: str, source: int) -> list[DataFile]:
    try:
        root, path = _split(entry)
        folder = _Folder(root)
        paths = [path]
        if _WILDCARD.search(path) and (root or not Path(path).exists()):
            paths = sorted(set(_matches(folder, *_before_wildcard(path))))
            if not paths:
                raise DataError(f"no file matches {folder.name(path)}; name files that there are")
        files = list(dict.fromkeys(file for each in paths for file in _files(folder, each)))
        with ThreadPoolExecutor(_AT_A_TIME if root else 1) as threads:
            identities = threads.map(lambda file: _identity(folder, file[0]), files)
            return [
                DataFile(folder.name(path), root, path, kind, source, identity)
                for (path, kind), identity in zip(files, identities, strict=True)
            ]
    except (pa.ArrowException, OSError, ImportError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        shown = _CREDENTIALS.sub("//", entry)
        if shown.startswith(_NATIVE):
            shown = shown.partition("?")[0]
        raise DataError(f"{shown} cannot be read: {error}") from error


def _split(entry: str) -> tuple[str, str]:
    """The URI of an entry's file system, or "", and the path within it."""
    scheme = _URI.match(entry)
    if scheme is None:
        return "", entry
    if scheme[1] == "file":
        return "", entry[scheme.end() :]
    if entry.startswith(_NATIVE):
        rest, _, options = entry[scheme.end() :].partition("?")
        authority, _, key = rest.partition("/")
        path = posixpath.join(authority.rpartition("@")[2], key.rstrip("/"))
        return f"{scheme[0]}{authority}" + (f"?{options}" if options else ""), path
    return entry, url_to_fs(entry)[1].rstrip("/")


@lru_cache
def _file_system(root: str) -> Any:
    if not root:
        return fs.LocalFileSystem()
    if root.startswith(_NATIVE):
        return fs.FileSystem.from_uri(root)[0]
    return fs.PyFileSystem(fs.FSSpecHandler(url_to_fs(root)[0]))


def _before_wildcard(path: str) -> tuple[str, list[str]]:
    """The folder before the first wildcard of a pattern, and the parts of the pattern after it."""
    parts = path.split("/")
    first = next(place for place, part in enumerate(parts) if _WILDCARD.search(part))
    return "/".join(parts[:first]) or ("/" if first else ""), parts[first:]


def _matches(folder: _Folder, base: str, parts: Sequence[str]) -> Iterator[str]:
    """The paths below `base` that match a pattern."""
    if not parts:
        yield base
        return
    part, *rest = parts
    if not _WILDCARD.search(part):
        path = posixpath.join(base, part)
        if folder.about(path).type != fs.FileType.NotFound:
            yield from _matches(folder, path, rest)
        return
    for entry in folder.entries(base):
        is_folder, path = entry.type == fs.FileType.Directory, posixpath.join(base, entry.base_name)
        if entry.base_name.startswith("."):
            continue
        if part == "**":
            if is_folder:
                yield from _matches(folder, path, parts)
        elif fnmatchcase(entry.base_name, part) and (is_folder or not rest):
            yield from _matches(folder, path, rest)
    if part == "**":
        yield from _matches(folder, base, rest or ["*"])


def _files(folder: _Folder, path: str) -> list[tuple[str, Kind]]:
    """The files of prompts at a path, which is a file or a folder."""
    kind = folder.about(path).type
    if kind == fs.FileType.NotFound:
        raise DataError(
            f"there is no file {folder.name(path)}; name a file of prompts, or a folder of them"
        )
    if kind == fs.FileType.File:
        return [(path, _KINDS.get(posixpath.splitext(path)[1].lower(), "parquet"))]
    names = [entry.base_name for entry in folder.entries(path)]
    if _SPLITS in names:
        return _files(folder, posixpath.join(path, _only_split(folder, path)))
    if _STATE in names:
        return _saved(folder, path)
    suffixes = {suffix for name in names if (suffix := posixpath.splitext(name)[1]) in _IN_FOLDERS}
    if not suffixes:
        there = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise DataError(
            f"the folder {folder.name(path)} has no .parquet files and no .jsonl files (it has: {there or 'nothing'}); "
            "name another folder, or one file"
        )
    if len(suffixes) > 1:
        raise DataError(
            f"the folder {folder.name(path)} has .parquet files and .jsonl files; name those that are meant, as in "
            f"{folder.name(posixpath.join(path, '*.parquet'))}"
        )
    [suffix] = suffixes
    return [
        (posixpath.join(path, name), _KINDS.get(suffix, "parquet"))
        for name in names
        if name.endswith(suffix)
    ]


def _only_split(folder: _Folder, path: str) -> str:
    splits = [str(split) for split in folder.json(posixpath.join(path, _SPLITS))["splits"]]
    if len(splits) != 1:
        choices = " or ".join(folder.name(posixpath.join(path, split)) for split in splits)
        raise DataError(f"the folder {folder.name(path)} has several splits; name one: {choices}")
    return splits[0]


def _saved(folder: _Folder, path: str) -> list[tuple[str, Kind]]:
    """The files of a folder that `datasets.Dataset.save_to_disk` wrote, in the order of their rows."""
    state = folder.json(posixpath.join(path, _STATE))
    if state.get("_indices_data_files"):
        raise DataError(
            f"the rows of {folder.name(path)} are chosen by an indices file; call flatten_indices() and save it again"
        )
    return [
        (posixpath.join(path, each["filename"]), "arrow") for each in state.get("_data_files", [])
    ]


def _identity(folder: _Folder, path: str) -> Identity:
    """What changes when a file does: path or URI, size, time of change, and a hash of its Parquet footer, or of its
    first and last bytes if it has none."""
    about = folder.about(path)
    if about.type != fs.FileType.File:
        raise DataError(f"there is no file {folder.name(path)}; name a file of prompts")
    size: int = about.size
    with folder.system.open_input_file(path) as file:
        ends = file.read_at(min(size, _END), max(0, size - _END))
        if ends[-4:] == _PARQUET:
            length = int.from_bytes(ends[-8:-4], "little") + 8
            if len(ends) < length <= size:
                ends = file.read_at(length, size - length)
        elif size > _END:
            ends = file.read_at(_END, 0) + ends
    name = folder.name(path) if folder.root else str(Path(path).absolute())
    return name, size, about.mtime_ns or 0, hashlib.sha256(ends).hexdigest()
