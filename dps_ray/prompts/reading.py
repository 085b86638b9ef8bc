"""Reads all rows of large pools on several cores: keys in processes, texts in threads.

Keys are made in processes, because hashing a row takes longer than decoding it and holds Python's lock. Texts are
compared by Arrow alone, which releases the lock.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from dps_ray.processes import Processes, cores
from dps_ray.prompts.files import Keys, PromptFile
from dps_ray.prompts.places import DataFile

T = TypeVar("T")

_ALONE = 300_000  # rows that are read by this process alone: others take a second to start
_PART = 65_536  # rows read at a time by one of several


class Part(NamedTuple):
    """Some row groups of a file.

    groups: None for all of the file
    first:  rows of the file before them
    """

    file: DataFile
    id_column: str | None
    groups: list[int] | None
    first: int


def checked_keys(files: Sequence[PromptFile]) -> Iterator[Keys]:
    """Checks the rows of all files and yields their keys in order, some rows at a time.

    Raises:
        DataError: a row is bad; the first of them is named.
        ResourceError: a process died.
    """
    if _is_small(files):
        for file in files:
            yield from file.checked_keys()
        return
    parts = _parts(files)
    processes = Processes(_keys_of, min(cores(), len(parts)), lambda part: f"read {part.file.name}")
    try:
        for keys in processes.map(parts):
            yield from keys
    finally:
        processes.close()


_opened: dict[tuple[DataFile, str | None], PromptFile] = {}  # in a process of `checked_keys`


def _keys_of(part: Part) -> list[Keys]:
    """The keys of these rows, batch by batch.

    Raises:
        DataError: a row is bad.
    """
    key = part.file, part.id_column
    if key not in _opened:
        pa.set_cpu_count(1)  # there is a process for each core
        _opened.clear()  # parts come in the order of files
        _opened[key] = PromptFile(*key)
    return list(_opened[key].checked_keys(part.groups, part.first))


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
    return _distinct(_in_threads(common_in, parts, cores()))


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
    return sum(map(len, files)) <= _ALONE or cores() == 1
