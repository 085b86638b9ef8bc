"""Reads all rows of large pools on several cores: keys in processes, texts in threads.

Keys are made in processes, because hashing a row takes longer than decoding it and holds Python's lock. Texts are
compared by Arrow alone, which releases the lock.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from queue import SimpleQueue
from typing import NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from dps_ray.errors import ResourceError
from dps_ray.prompts.files import Keys, PromptFile
from dps_ray.prompts.places import DataFile

T = TypeVar("T")

_ALONE = 300_000  # rows that are read by this process alone: others take a second to start
_PART = 65_536  # rows read at a time by one of several
_MOST = 16  # processes or threads


class Part(NamedTuple):
    """Some row groups of a file.

    groups: None for all of the file
    first:  rows of the file before them
    """

    file: DataFile
    id_column: str | None
    groups: list[int] | None
    first: int

    def keys(self, file: PromptFile) -> list[Keys]:
        """The keys of these rows, batch by batch.

        Raises:
            DataError: a row is bad.
        """
        return list(file.checked_keys(self.groups, self.first))


def checked_keys(files: Sequence[PromptFile]) -> Iterator[Keys]:
    """Checks the rows of all files and yields their keys in order, some rows at a time.

    Raises:
        DataError: a row is bad; the first of them is named.
        ResourceError: a process died.
    """
    parts = _parts(files)
    if _is_small(files):
        for file in files:
            yield from file.checked_keys()
        return
    processes = [_Process() for _ in range(min(_cores(), len(parts)))]
    idle: SimpleQueue[_Process] = SimpleQueue()
    for process in processes:
        idle.put(process)

    def keys_of(part: Part) -> list[Keys]:
        process = idle.get()
        try:
            return process.keys_of(part)
        finally:
            idle.put(process)

    try:
        for keys in _in_threads(keys_of, parts, len(processes)):
            yield from keys
    finally:
        for process in processes:
            process.kill()


def common_texts(files: Sequence[PromptFile], wanted: pa.StringArray) -> pa.StringArray:
    """Those of the wanted texts that are texts of prompts in the files."""

    def common(texts: pa.StringArray) -> pa.StringArray:
        return texts.filter(pc.is_in(texts, wanted)).unique()

    if _is_small(files):
        found = [common(texts) for file in files for texts in file.texts()]
        return _distinct(found)
    opened = threading.local()  # a file is read by one thread at a time

    def common_in(part: Part) -> pa.StringArray:
        if getattr(opened, "part", None) != part.file:
            opened.part, opened.file = part.file, PromptFile(part.file, part.id_column)
        found = [common(texts) for texts in opened.file.texts(part.groups)]
        return _distinct(found)

    parts = _parts(files)
    return _distinct(_in_threads(common_in, parts, _cores()))


class _Process:
    """A process that makes keys: `python -m dps_ray.prompts.reading_process`."""

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dps_ray.prompts.reading_process", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl+C is for this process, which ends the others
            )

    def keys_of(self, part: Part) -> list[Keys]:
        try:
            self._connection.send(part)
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise ResourceError(
                f"a process that read {part.file.name} ended with exit code {self._process.wait()}; it may have run out "
                "of memory"
            ) from error
        if isinstance(answer, BaseException):
            raise answer
        keys: list[Keys] = answer
        return keys

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._connection.close()


def _distinct(texts: Iterable[pa.StringArray]) -> pa.StringArray:
    return pa.concat_arrays([pa.array([], pa.string()), *texts]).unique()


def _parts(files: Sequence[PromptFile]) -> list[Part]:
    return [
        Part(file.readable, file.id_column, groups, first)
        for file in files
        for groups, first in file.groups_of(_PART)
    ]


def _in_threads(do: Callable[[Part], T], parts: Sequence[Part], count: int) -> Iterator[T]:
    """Yields the results for all parts, in order."""
    threads = ThreadPoolExecutor(count, thread_name_prefix="reading")
    try:
        yield from threads.map(do, parts)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _is_small(files: Sequence[PromptFile]) -> bool:
    return sum(map(len, files)) <= _ALONE or _cores() == 1


def _cores() -> int:
    return min(_MOST, len(os.sched_getaffinity(0)))
