"""Files that exist completely or not at all, with checksums that reveal later changes.

    write ──> part file ──> fsync ──> rename ──> fsync of the folder      a local or shared file system
    write ──> put under a key that was never used                         an object store

Each name is written once and never overwritten, so readers may cache its content. `write` returns the size and
SHA-256 of the file; they suffice to detect a file that was truncated, altered or lost. Without them, damage can go
unnoticed: Arrow reads an uncompressed file with a flipped bit without an error, and a file system returns zeros for
a hole.
"""

import hashlib
import io
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from dps_ray.deadline import within
from dps_ray.durable import local_files
from dps_ray.errors import CheckpointError

T = TypeVar("T")
Writer = Callable[[io.RawIOBase], object]

# Seconds that an object store may take for a call that transfers little data. On Linux, Arrow itself waits for S3
# without a limit. `timeouts.checkpoint` limits calls that transfer a model.
SILENT = 120.0


@dataclass(frozen=True)
class Stored:
    """One file as it was written.

    path:   relative to the storage's root, with "/" between its parts
    bytes:  the file's length
    sha256: the hexadecimal SHA-256 of its content
    rows:   the number of rows, if the writer counts any
    """

    path: str
    bytes: int
    sha256: str
    rows: int | None = None


@dataclass(frozen=True)
class Storage:
    """Reads and writes the files below one root. It can be pickled and sent to other processes.

    root:   the folder or URI, as shown in messages
    files:  the file system, with paths relative to the root
    folder: the root as a local folder; None in an object store
    """

    root: str
    files: fs.FileSystem
    folder: Path | None

    @classmethod
    def at(cls, where: str | Path) -> Self:
        """Returns the storage in a local or shared folder, or at a URI such as `s3://bucket/run`.

        Raises:
            CheckpointError: pyarrow does not support the URI.
        """
        if "://" in str(where):
            try:
                files, path = fs.FileSystem.from_uri(str(where))
            except (pa.ArrowException, OSError) as error:
                raise CheckpointError(
                    f"{_shown(where)} cannot be opened: {error}; write a folder, or a URI such as "
                    "s3://bucket/run"
                ) from error
        else:
            files, path = fs.LocalFileSystem(), str(Path(where).absolute())
        folder = Path(path) if isinstance(files, fs.LocalFileSystem) else None
        return cls(_shown(where), fs.SubTreeFileSystem(path, files), folder)

    def local(self, path: str) -> Path | None:
        """The local path, for programs that write files themselves; None in an object store."""
        return None if self.folder is None else self.folder / path

    # --- writing ----------------------------------------------------------------------------------

    def write(self, path: str, content: bytes | pa.Buffer | Writer) -> Stored:
        """Writes a new file. It is durable, under its final name, when this returns.

        content: the bytes, or a function that writes them to the open file it is given.

        If the write fails, no file is left under the name.

        Raises:
            CheckpointError: the name is taken, or the file system refused the write, for example because it is full.
        """
        writer: Writer = content if callable(content) else lambda sink: sink.write(content)
        with self._failing("written", path):
            if self.exists(path):
                raise CheckpointError(f"{self.root}/{path} exists already and is never overwritten")
            if self.folder is None and not callable(content):
                sink = self._in_time(lambda: self._put(path, writer))
            elif self.folder is None:
                sink = self._put(path, writer)
            else:
                sink = local_files.write_aside(
                    self.folder / path, lambda file: _written(writer, file)
                )
        return Stored(path, sink.bytes, sink.sha256)

    def create_exclusively(self, path: str, content: bytes = b"") -> bool:
        """Creates this file and returns True; returns False if it exists or another process created it first.

        If several processes try at the same moment, at most one succeeds; on a file system, exactly one does.
        pyarrow has no exclusive creation in object stores. There each process writes its own claim and lists
        all claims; a process that finds another claim fails. Two processes may both fail, and then try the next
        name.
        """
        with self._failing("created", path):
            if self.folder is not None:
                return local_files.create(self.folder / path, content)
            claim = f"{path}.{secrets.token_hex(8)}"
            self._in_time(lambda: self._put(claim, lambda sink: sink.write(content)))
            beside = self.list(path.rpartition("/")[0])
            return [other for other in beside if other.startswith(f"{path}.")] == [claim]

    def adopt(
        self, folder: Path, path: str, mine: Callable[[Path], bool] = lambda file: True
    ) -> list[Stored]:
        """Adds the files that another program wrote into a local folder, under `path`.

        If `folder` is `local(path)`, the files stay in place and each file and folder is made durable; on a shared
        file system this must run on the machine that wrote them. Otherwise the files are copied.

        Args:
            mine: selects the files to add; other processes add the rest.

        Raises:
            CheckpointError: the folder holds no files, or one cannot be read, made durable or copied.
        """
        everything = sorted(source for source in folder.rglob("*") if source.is_file())
        if not everything:
            raise CheckpointError(f"{folder} holds no files; the program that fills it wrote none")
        sources = [source for source in everything if mine(source)]
        if self.folder is None or folder.absolute() != self.folder / path:
            return [
                self.write(f"{path}/{source.relative_to(folder).as_posix()}", _copy_of(source))
                for source in sources
            ]
        with self._failing("made durable", path):
            local_files.sync_tree(folder, sources)
            return [self.measured(source.relative_to(self.folder).as_posix()) for source in sources]

    def delete(self, path: str) -> None:
        """Deletes this file, and the folders that become empty. It is no error if the file does not exist."""
        with self._failing("deleted", path), suppress(FileNotFoundError):
            self._in_time(lambda: self.files.delete_file(path))
        if self.folder is not None:
            with suppress(OSError):  # stops at the first folder that is not empty
                for parent in Path(path).parents[:-1]:
                    (self.folder / parent).rmdir()

    # --- reading ----------------------------------------------------------------------------------

    def exists(self, path: str) -> bool:
        with self._failing("looked for", path):
            info = self._in_time(lambda: self.files.get_file_info(path))
            return bool(info.type != fs.FileType.NotFound)

    def list(self, folder: str) -> list[str]:
        """The paths of all files below this folder, unfinished ones included; empty if the folder does not exist."""
        with self._failing("listed", folder):
            found = self._in_time(lambda: self._found(folder))
        return sorted(info.path for info in found if info.type == fs.FileType.File)

    def content(self, path: str) -> pa.Buffer:
        """The file's content, without a check of its checksum.

        Raises:
            CheckpointError: the file is missing or cannot be read.
        """

        def read() -> pa.Buffer:
            with self.files.open_input_stream(path) as stream:
                return stream.read_buffer()

        with self._failing("read", path):
            return self._in_time(read)

    def read(self, stored: Stored) -> pa.Buffer:
        """The file's content, checked against the size and checksum that `write` returned.

        Raises:
            CheckpointError: the file is missing, truncated or altered; the message says which.
        """
        content = self.content(stored.path)
        digest = hashlib.sha256(content).hexdigest()
        self._compare(stored, Stored(stored.path, content.size, digest))
        return content

    def verify(self, stored: Stored) -> None:
        """Checks a file of any length as `read` does, without holding its content in memory."""
        with self._failing("read", stored.path):
            size = self._in_time(lambda: self.files.get_file_info(stored.path)).size
        if size is not None and size != stored.bytes:  # fails without reading the content
            self._compare(stored, Stored(stored.path, size, ""))
        self._compare(stored, self.measured(stored.path))

    def fetch(self, stored: Iterable[Stored], path: str, scratch: Path) -> Path:
        """A local folder with these files, which must all lie below `path`, for programs that read folders.

        On a file system this is the folder that already holds them. From an object store they are copied into
        `scratch`, and that is returned.

        Raises:
            CheckpointError: a file is missing, truncated or altered.
        """
        local = self.local(path)
        for file in stored:
            if local is not None:
                self.verify(file)
                continue
            target = scratch / Path(file.path).relative_to(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as out:
                self._compare(file, self.measured(file.path, out))
        return scratch if local is None else local

    # --- steps of these ---------------------------------------------------------------------------

    def _in_time(self, work: Callable[[], T]) -> T:
        """The result of `work`. Raises TimeoutError if an object store does not answer within `SILENT` seconds."""
        return work() if self.folder is not None else within(SILENT, work)

    def _put(self, path: str, writer: Writer) -> "_HashingSink":
        try:
            with self._opened(path) as stream:
                return _written(writer, stream)
        except BaseException:
            with suppress(OSError):
                self.files.delete_file(path)
            raise

    def _opened(self, path: str) -> Any:
        try:
            return self.files.open_output_stream(path)
        except FileNotFoundError:  # the store has real folders, as true object stores have not
            self.files.create_dir(path.rpartition("/")[0], recursive=True)
            return self.files.open_output_stream(path)

    def _found(self, folder: str, looks: int = 10) -> Any:
        try:
            selector = fs.FileSelector(folder, allow_not_found=True, recursive=True)
            return self.files.get_file_info(selector)
        except FileNotFoundError:  # a folder was made or removed during the listing
            if looks == 1:
                raise
            return self._found(folder, looks - 1)

    def measured(self, path: str, target: Any = None) -> Stored:
        """Measures the length and SHA-256 of a file as it is now, and copies it to `target` if one is given. A caller
        can thus recover what `write` returned to a process that died."""
        sink = _HashingSink(target)
        with self._failing("read", path), self.files.open_input_stream(path) as stream:
            shutil.copyfileobj(stream, sink, _BLOCK)
        return Stored(path, sink.bytes, sink.sha256)

    def _compare(self, stored: Stored, found: Stored) -> None:
        name = f"{self.root}/{stored.path}"
        if found.bytes < stored.bytes:
            raise CheckpointError(
                f"{name} is truncated to {found.bytes:,} of {stored.bytes:,} bytes"
            )
        if found.bytes > stored.bytes:
            raise CheckpointError(
                f"{name} has {found.bytes:,} bytes where {stored.bytes:,} were written"
            )
        if found.sha256 != stored.sha256:
            raise CheckpointError(
                f"{name} was altered: its SHA-256 is {found.sha256[:12]}... and was {stored.sha256[:12]}..."
            )

    @contextmanager
    def _failing(self, done: str, path: str) -> Iterator[None]:
        """Turns errors of the file system into CheckpointErrors that name the file."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            what = f"was not {done}: {getattr(error, 'strerror', None) or error}"
            if done == "read" and isinstance(error, FileNotFoundError):
                what = "is missing"
            raise CheckpointError(f"{self.root}/{path} {what}") from error


_BLOCK = 1 << 20


class _HashingSink(io.RawIOBase):
    """Forwards what is written to a target and records its length and SHA-256."""

    def __init__(self, target: Any) -> None:
        self._target = target
        self._digest = hashlib.sha256()
        self.bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self._digest.update(view)
        if self._target is not None:
            self._target.write(view)
        self.bytes += view.nbytes
        return view.nbytes

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def _shown(where: str | Path) -> str:
    """The folder unchanged; a URI without its options and credentials."""
    if "://" not in str(where):
        return str(where)
    parts = urlsplit(str(where))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _written(writer: Writer, target: Any) -> _HashingSink:
    sink = _HashingSink(target)
    writer(sink)
    return sink


def _copy_of(source: Path) -> Writer:
    def copy(sink: io.RawIOBase) -> None:
        with source.open("rb") as file:
            shutil.copyfileobj(file, sink, _BLOCK)

    return copy
