"""The pool of prompts, with ids in memory and everything else read from disk on demand.

`PromptTable` finds a few hundred prompts among ten million by their ids without loading the files. It
keeps 20 bytes per prompt: the ids in file order and sorted, and the permutation that sorts them. With a cache the
arrays are mapped from its files.
"""

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dps_ray.errors import DataError
from dps_ray.prompts.cache import Cache, Entry, Identity, key_of
from dps_ray.prompts.files import PromptFile
from dps_ray.prompts.ids import Order
from dps_ray.prompts.index import Progress, index_of
from dps_ray.prompts.messages import message_texts
from dps_ray.prompts.places import DataFile, Place, find
from dps_ray.prompts.reading import common_texts

T = TypeVar("T")
Ids = NDArray[np.int64] | Sequence[int]


class Prompt(NamedTuple):
    """One row of the pool, with the field names of verl's schema."""

    id: int
    messages: list[dict[str, Any]]  # {role, content} each
    data_source: str
    ground_truth: Any
    extra_info: dict[str, Any]
    images: list[bytes]  # encoded files, one for each <image> in the contents


class FileRecord(NamedTuple):
    """A file of the pool.

    path:   as found
    rows:   number of prompts
    digest: SHA-256 of the prompts' ids and contents in order; the same for a copy under another name
    """

    path: str
    rows: int
    digest: str


class Labels(NamedTuple):
    """The cluster of each prompt.

    labels: int32 (N,) in file order, positions in `names`
    names:  the clusters' names, sorted as strings
    """

    labels: NDArray[np.int32]
    names: list[str]


class PromptTable:
    """Checked prompts in one or more files, with random access by id. Use `open` to create a table.

    All arrays are read-only, and memory-mapped if they come from a cache:

    ids:          int64 (N,), unique, in file order
    contents:     int64 (N,), the hash of each prompt's data source, messages and ground truth, in file order
    sorted_ids:   int64 (N,), the ids ascending
    order:        int32 (N,), or int64 if N >= 2^31: `ids[order] == sorted_ids`
    source_sizes: int64 (S,), the number of prompts from each entry of the list given to `open`; S = 1 for a single path
    """

    def __init__(
        self,
        files: Sequence[DataFile],
        index: Entry,
        id_column: str | None,
        opened: Iterable[PromptFile],
        cache: Cache | None,
    ) -> None:
        self._found = list(files)
        self._about: list[dict[str, Any]] = index.meta["files"]
        self._id_column = id_column
        self._opened = dict(enumerate(opened))
        self._reading = threading.Lock()
        self._cache = cache
        rows = [about["rows"] for about in self._about]
        self._starts = np.cumsum([0, *rows])  # first row of each file, and the end
        arrays = {name: _read_only(array) for name, array in index.arrays.items()}
        self.ids: NDArray[np.int64] = arrays["ids"]
        self.contents: NDArray[np.int64] = arrays.get("contents", self.ids)
        self.sorted_ids: NDArray[np.int64] = arrays["sorted_ids"]
        self.order: Order = arrays["order"]
        sizes = np.bincount([file.source for file in files], rows)
        self.source_sizes: NDArray[np.int64] = _read_only(sizes.astype(np.int64))

    @classmethod
    def open(
        cls,
        path: Place | Sequence[Place],
        id_column: str | None = None,
        progress: Progress | None = None,
        cache: Cache | None = None,
    ) -> "PromptTable":
        """Opens what `places.find` finds: a file, a folder, a pattern, a URI, or a list of these. Checks every row once.

        Args:
            id_column: a column of unique integers. None makes ids from the rows: each is a hash of
                data source, messages and ground truth, so a prompt keeps its id when files are
                merged, split or reordered. Published data sets contain rows that are equal in all
                three; the id of a repeated row also depends on how many equal rows precede it.
            progress: called with (rows checked, total rows), unless the cache knows the files.
            cache: keeps what was found. The rows of files that it knows are not read again.

        Raises:
            DataError: a file is missing, cannot be read, or has no rows; a column is missing
                or has the wrong type; a prompt is empty; an id occurs twice. The message names
                file, row and column.
        """
        files = find(path)
        opened: list[PromptFile] = []

        def make() -> Entry:
            opened.extend(PromptFile(file, id_column, cache) for file in files)
            if sum(map(len, opened)) == 0:
                raise DataError(f"there are no prompts in {path}; name files that have rows")
            index = index_of(opened, id_column, progress)
            for file in files:
                file.check_unchanged()
            return index

        key = key_of("index", [file.identity for file in files], id_column=id_column)
        index = make() if cache is None else cache.kept(key, make)
        return cls(files, index, id_column, opened, cache)

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, ids: Ids) -> list[Prompt]:
        """The prompts with these ids, in the same order.

        Raises:
            DataError: an id is unknown, or an image's file is missing.
        """

        def read(file: PromptFile, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = file.take(rows, file.columns()).to_pylist()
            for number, row in zip(rows, found, strict=True):
                row["images"] = _image_files(row.get("images"), file, int(number))
            return found

        return [_prompt(int(id_), row) for id_, row in zip(ids, self._take(ids, read), strict=True)]

    def place(self, id_: int) -> str:
        """The file and row of a prompt, as text for error messages."""
        return self._place(int(self._rows_of([id_])[0]))

    def texts(self, ids: Ids) -> list[str]:
        """The text of each prompt, in the order of `ids`: its messages' contents, joined by newlines."""

        def read(file: PromptFile, rows: NDArray[np.int64]) -> list[str]:
            prompts = file.take(rows, ["prompt"])["prompt"].combine_chunks()
            texts: list[str] = message_texts(prompts).to_pylist()
            return texts

        return self._take(ids, read)

    def all_texts(self) -> Iterator[pa.StringArray]:
        """Yields the texts of all prompts in file order, in batches of some thousands."""
        for file in self._files():
            yield from file.texts()

    def common_texts(self, wanted: pa.StringArray) -> pa.StringArray:
        """Those of the wanted texts that are texts of prompts."""
        return common_texts(list(self._files()), wanted)

    def find(self, ids: Ids) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The rows of these prompts, int64 (n,), and which of the ids are known, bool (n,). The row of an unknown id has
        no meaning."""
        wanted = np.asarray(ids, dtype=np.int64)
        places = np.minimum(np.searchsorted(self.sorted_ids, wanted), len(self.ids) - 1)
        return self.order[places].astype(np.int64), self.sorted_ids[places] == wanted

    def source_of(self, ids: Ids) -> NDArray[np.int16]:
        """The source of each of these prompts, int16 (n,): the position of its entry in the list given to `open`.

        Raises:
            DataError: an id is unknown.
        """
        ends = np.cumsum(self.source_sizes)
        sources: NDArray[np.int16] = np.searchsorted(ends, self._rows_of(ids), "right").astype(
            np.int16
        )
        return sources

    def labels(self, column: str | None = None) -> Labels:
        """The cluster of each prompt: its value's position among the column's sorted values, compared as strings.

        column: a column of strings or integers, or a field such as `extra_info.level`; None means data_source.

        Raises:
            DataError: a file lacks the column, the column has another type, or a value is missing.
        """
        wanted = column or "data_source"

        def make() -> Entry:
            parts = [part for file in self._files() for part in file.values(wanted)]
            parts = pa.chunked_array(parts).unify_dictionaries().chunks
            numbers = np.concatenate([part.indices.to_numpy() for part in parts])
            names = parts[0].dictionary
            order = pc.array_sort_indices(names)
            labels = np.argsort(order.to_numpy()).astype(np.int32)[numbers]
            return Entry({"labels": labels}, {"names": names.take(order).to_pylist()})

        key = key_of("labels", self.identities, column=wanted)
        kept = make() if self._cache is None else self._cache.kept(key, make)
        return Labels(_read_only(kept.arrays["labels"]), kept.meta["names"])

    @property
    def identities(self) -> list[Identity]:
        """What changes when a file does, for each file."""
        return [file.identity for file in self._found]

    @property
    def files(self) -> list[FileRecord]:
        """The files of the pool, in order."""
        return [
            FileRecord(file.name, about["rows"], about["digest"])
            for file, about in zip(self._found, self._about, strict=True)
        ]

    @property
    def files_of_strings(self) -> list[str]:
        """The files whose prompts are strings. `rows` turns each such prompt into one message of role user."""
        both = zip(self._found, self._about, strict=True)
        return [file.name for file, about in both if about["holds_strings"]]

    @property
    def has_images(self) -> bool:
        """Whether any of the files has a column of images."""
        return any(about["has_images"] for about in self._about)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the ids and the files' bytes. It changes when any row or the order of rows changes."""
        digest = hashlib.sha256(self.ids.data)
        for file in self._files():
            digest.update(file.digest())
        return digest.hexdigest()

    def _files(self) -> Iterator[PromptFile]:
        return map(self._file, range(len(self._found)))

    def _file(self, index: int) -> PromptFile:
        """A file, which is opened when it is first asked for.

        Raises:
            DataError: the file has changed since its rows were checked.
        """
        if index not in self._opened:
            found = self._found[index]
            self._opened[index] = PromptFile(found, self._id_column, self._cache)
            found.check_unchanged()
        return self._opened[index]

    def _take(self, ids: Ids, read: Callable[[PromptFile, NDArray[np.int64]], list[T]]) -> list[T]:
        """The results of `read` for these prompts, in the order of `ids`."""
        rows, positions = np.unique(self._rows_of(ids), return_inverse=True)
        found: list[T] = []
        with self._reading:  # threads take turns, as the reader of a file serves one at a time
            for index, (start, end) in enumerate(pairwise(self._starts)):
                here = rows[np.searchsorted(rows, start) : np.searchsorted(rows, end)]
                if len(here):
                    found += read(self._file(index), here - start)
        return [found[position] for position in positions]

    def _rows_of(self, ids: Ids) -> NDArray[np.int64]:
        rows, known = self.find(ids)
        if not known.all():
            unknown = np.asarray(ids)[~known][0]
            raise DataError(f"no prompt has the id {unknown}; `ids` holds all known ids")
        return rows

    def _place(self, row: int) -> str:
        index = int(np.searchsorted(self._starts, row, side="right")) - 1
        return f"{self._found[index].name}, row {row - self._starts[index]}"


def overlap(train: PromptTable, test: PromptTable, cache: Cache | None = None) -> int:
    """The number of prompts of `test` whose text also occurs, word for word, in `train`.

    Holds the texts of `test` in memory and reads those of `train` once. Returns 0 if `test` has
    images, because equal texts such as "Find x." may then belong to different images.
    """
    if test.has_images:
        return 0

    def make() -> Entry:
        held_out = pa.concat_arrays(test.all_texts())
        seen = train.common_texts(held_out)
        return Entry({}, {"prompts": int(pc.sum(pc.is_in(held_out, seen)).as_py())})

    files = [*train.identities, ("and",), *test.identities]
    found = make() if cache is None else cache.kept(key_of("overlap", files), make)
    return int(found.meta["prompts"])


def note_on_strings(tables: Iterable[PromptTable]) -> str | None:
    """A note for the user if any prompts are strings instead of messages; otherwise None."""
    files = [name for table in tables for name in table.files_of_strings]
    if not files:
        return None
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return f"prompts in {files[0]}{more} are strings; each becomes one message of role user"


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    plain = np.asarray(array)  # a memory-mapped array is of a class of its own
    plain.flags.writeable = False
    return plain


def _prompt(id_: int, row: dict[str, Any]) -> Prompt:
    return Prompt(
        id=id_,
        messages=[{"role": m["role"], "content": m["content"]} for m in row["prompt"]],
        data_source=row["data_source"],
        ground_truth=row["reward_model"]["ground_truth"],
        extra_info=row.get("extra_info") or {},
        images=row["images"],
    )


def _image_files(entries: list[Any] | None, file: PromptFile, row: int) -> list[bytes]:
    try:
        return [file.image(entry) for entry in entries or []]
    except ValueError as error:
        raise DataError(f"{file.name}, row {row}, column 'images': an image {error}") from None
