"""The pool of prompts, with ids in memory and everything else read from disk on demand.

`PromptTable` finds a few hundred prompts among ten million by their ids without loading the files. It
keeps 16 bytes per prompt: the ids in file order, and the permutation that sorts them.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dps_ray.errors import DataError
from dps_ray.hashing import hash_ids, hash_key
from dps_ray.prompts.files import PromptFile
from dps_ray.prompts.image_files import encoded
from dps_ray.prompts.messages import message_texts

Progress = Callable[[int, int], None]
T = TypeVar("T")
# Separates the ids made for repeated rows from the hashes that they are made from.
_REPEATS = hash_key(0x726570656174)


class Prompt(NamedTuple):
    """One row of the pool, with the field names of verl's schema."""

    id: int
    messages: list[dict[str, Any]]  # {role, content} each
    data_source: str
    ground_truth: Any
    extra_info: dict[str, Any]
    images: list[bytes]  # encoded files, one for each <image> in the contents


class PromptTable:
    """Checked prompts in one or more Parquet files, with random access by id.

    `ids` is int64 (N,), unique, in file order. Use `open` to create a table.
    """

    def __init__(self, files: Sequence[PromptFile], ids: NDArray[np.int64]) -> None:
        self._files = list(files)
        self._starts = np.cumsum([0, *map(len, files)])  # first row of each file, and the end
        self._order = np.argsort(ids, kind="stable")
        self.ids = ids
        self.ids.flags.writeable = False
        self._check_unique()

    @classmethod
    def open(
        cls,
        path: str | Path | Sequence[str | Path],
        id_column: str | None = None,
        progress: Progress | None = None,
    ) -> "PromptTable":
        """Opens a Parquet file, a folder of Parquet files, or a list of these, and checks every row once.

        Args:
            id_column: a column of unique integers. None makes ids from the rows: each is a hash of
                data source, messages and ground truth, so a prompt keeps its id when files are
                merged, split or reordered. Published data sets contain rows that are equal in all
                three; the id of a repeated row also depends on how many equal rows precede it.
            progress: called with (rows checked, total rows).

        Raises:
            DataError: a file is missing, is not a Parquet file, or has no rows; a column is missing
                or has the wrong type; a prompt is empty; an id occurs twice. The message names
                file, row and column.
        """
        files = [PromptFile(file, id_column) for file in _find(path)]
        total = sum(map(len, files))
        if total == 0:
            raise DataError(f"there are no prompts in {path}; name files that have rows")
        keys, done = np.empty(total, dtype=np.int64), 0
        for file in files:
            for batch in file.checked_keys():
                keys[done : done + len(batch)] = batch
                done += len(batch)
                if progress is not None:
                    progress(done, total)
        return cls(files, keys if id_column else _number_repeats(keys))

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, ids: NDArray[np.int64] | Sequence[int]) -> list[Prompt]:
        """The prompts with these ids, in the same order.

        Raises:
            DataError: an id is unknown, or an image's file is missing.
        """

        def read(file: PromptFile, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = file.take(rows, file.columns()).to_pylist()
            for number, row in zip(rows, found, strict=True):
                row["images"] = _image_files(row.get("images"), file.path, int(number))
            return found

        return [_prompt(int(id_), row) for id_, row in zip(ids, self._take(ids, read), strict=True)]

    def place(self, id_: int) -> str:
        """The file and row of a prompt, as text for error messages."""
        return self._place(int(self._rows_of([id_])[0]))

    def texts(self, ids: NDArray[np.int64] | Sequence[int]) -> list[str]:
        """The text of each prompt, in the order of `ids`: its messages' contents, joined by newlines."""

        def read(file: PromptFile, rows: NDArray[np.int64]) -> list[str]:
            prompts = file.take(rows, ["prompt"])["prompt"].combine_chunks()
            texts: list[str] = message_texts(prompts).to_pylist()
            return texts

        return self._take(ids, read)

    def all_texts(self) -> Iterator[pa.StringArray]:
        """Yields the texts of all prompts in file order, in batches of some thousands."""
        for file in self._files:
            yield from file.texts()

    def clusters(self, ids: NDArray[np.int64], column: str | None = None) -> NDArray[np.int32]:
        """The cluster number of each of these prompts, int32 (n,): its value's position among the column's sorted
        values, compared as strings.

        column: a column of strings or integers, or a field such as `extra_info.level`; None means data_source.

        Raises:
            DataError: a file lacks the column, the column has another type, or a value is missing.
        """
        wanted = column or "data_source"
        parts = [part for file in self._files for part in file.values(wanted)]
        parts = pa.chunked_array(parts).unify_dictionaries().chunks
        numbers = np.concatenate([part.indices.to_numpy() for part in parts])
        order = pc.array_sort_indices(parts[0].dictionary).to_numpy()
        ranks: NDArray[np.int32] = np.argsort(order).astype(np.int32)[numbers[self._rows_of(ids)]]
        return ranks

    @property
    def files_of_strings(self) -> list[Path]:
        """The files whose prompts are strings. `rows` turns each such prompt into one message of role user."""
        return [file.path for file in self._files if file.holds_strings]

    @property
    def has_images(self) -> bool:
        """Whether any of the files has a column of images."""
        return any("images" in file.columns() for file in self._files)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the ids and the files' bytes. It changes when any row or the order of rows changes."""
        digest = hashlib.sha256(self.ids.data)
        for file in self._files:
            digest.update(file.digest())
        return digest.hexdigest()

    def _take(
        self,
        ids: NDArray[np.int64] | Sequence[int],
        read: Callable[[PromptFile, NDArray[np.int64]], list[T]],
    ) -> list[T]:
        """The results of `read` for these prompts, in the order of `ids`."""
        rows, places = np.unique(self._rows_of(ids), return_inverse=True)
        found: list[T] = []
        for file, start, end in zip(self._files, self._starts, self._starts[1:], strict=False):
            here = rows[np.searchsorted(rows, start) : np.searchsorted(rows, end)]
            if len(here):
                found += read(file, here - start)
        return [found[place] for place in places]

    def _rows_of(self, ids: NDArray[np.int64] | Sequence[int]) -> NDArray[np.int64]:
        wanted = np.asarray(ids, dtype=np.int64)
        places = np.searchsorted(self.ids, wanted, sorter=self._order)
        rows: NDArray[np.int64] = self._order[np.minimum(places, len(self.ids) - 1)]
        unknown = self.ids[rows] != wanted
        if unknown.any():
            raise DataError(f"no prompt has the id {wanted[unknown][0]}; `ids` holds all known ids")
        return rows

    def _check_unique(self) -> None:
        in_order = self.ids[self._order]
        repeats = np.flatnonzero(in_order[1:] == in_order[:-1])
        if len(repeats):
            first, second = (self._place(self._order[repeats[0] + i]) for i in (0, 1))
            raise DataError(
                f"the id {in_order[repeats[0]]} occurs twice, in {first} and in {second} "
                f"({len(repeats)} repeats in all); give every row an id of its own, or leave "
                f"id_column out to have ids made from the rows"
            )

    def _place(self, row: int) -> str:
        index = int(np.searchsorted(self._starts, row, side="right")) - 1
        return f"{self._files[index].path}, row {row - self._starts[index]}"


def overlap(train: PromptTable, test: PromptTable) -> int:
    """The number of prompts of `test` whose text also occurs, word for word, in `train`.

    Holds the texts of `test` in memory and reads those of `train` once. Returns 0 if `test` has
    images, because equal texts such as "Find x." may then belong to different images.
    """
    if test.has_images:
        return 0
    held_out = pa.concat_arrays(test.all_texts())
    seen = pa.array([], pa.string())
    for texts in train.all_texts():
        common = texts.filter(pc.is_in(texts, held_out))
        seen = pa.concat_arrays([seen, common]).unique()
    return int(pc.sum(pc.is_in(held_out, seen)).as_py())


def note_on_strings(tables: Iterable[PromptTable]) -> str | None:
    """A note for the user if any prompts are strings instead of messages; otherwise None."""
    files = [str(file) for table in tables for file in table.files_of_strings]
    if not files:
        return None
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return f"prompts in {files[0]}{more} are strings; each becomes one message of role user"


def _find(path: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files that a path, a folder, or a list of these refers to."""
    if not isinstance(path, str | Path):
        return [file for one in path for file in _find(one)]
    path = Path(path)
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.parquet"))
    if not files:
        raise DataError(
            f"the folder {path} has no .parquet files; name another folder, or one Parquet file"
        )
    return files


def _prompt(id_: int, row: dict[str, Any]) -> Prompt:
    return Prompt(
        id=id_,
        messages=[{"role": m["role"], "content": m["content"]} for m in row["prompt"]],
        data_source=row["data_source"],
        ground_truth=row["reward_model"]["ground_truth"],
        extra_info=row.get("extra_info") or {},
        images=row["images"],
    )


def _image_files(entries: list[Any] | None, path: Path, row: int) -> list[bytes]:
    try:
        return [encoded(entry, path.parent) for entry in entries or []]
    except ValueError as error:
        raise DataError(f"{path}, row {row}, column 'images': an image {error}") from None


def _number_repeats(hashes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Makes ids from row hashes: of rows with the same hash, each after the first gets a different id."""
    order = np.argsort(hashes, kind="stable")
    in_order = hashes[order]
    is_first = np.concatenate(([True], in_order[1:] != in_order[:-1]))
    if is_first.all():
        return hashes
    places = np.arange(len(hashes))
    repeat = places - np.maximum.accumulate(np.where(is_first, places, 0))
    again, ids = order[~is_first], hashes.copy()
    mixed = hash_ids(hashes[again] ^ repeat[~is_first], _REPEATS)
    ids[again] = (mixed >> np.uint64(1)).astype(np.int64)
    return ids
