"""What a pool's files hold, found by reading every row once: ids, contents, and what each file is like."""

import hashlib
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dps_ray.errors import DataError
from dps_ray.prompts.cache import Entry
from dps_ray.prompts.files import PromptFile
from dps_ray.prompts.ids import Sorted, in_order, made_from
from dps_ray.prompts.reading import checked_keys

Progress = Callable[[int, int], None]


def index_of(
    files: Sequence[PromptFile], id_column: str | None, progress: Progress | None
) -> Entry:
    """Checks every row of the files, which are not all empty.

    Returns:
        The arrays `ids`, `order` and `sorted_ids` of `Sorted`, and `contents` where they differ from the ids. The
        metadata has {rows, digest, holds_strings, has_images} for each file, as `files`.

    Raises:
        DataError: a row is bad, or an id occurs twice.
    """
    total, done = sum(map(len, files)), 0
    contents = np.empty(total, dtype=np.int64)
    named = None if id_column is None else np.empty(total, dtype=np.int64)
    for keys in checked_keys(files):
        here = slice(done, done + len(keys.contents))
        contents[here] = keys.contents
        if named is not None and keys.ids is not None:
            named[here] = keys.ids
        done = here.stop
        if progress is not None:
            progress(done, total)
    found = made_from(contents) if named is None else in_order(named)
    starts = np.cumsum([0, *map(len, files)])
    _check_unique(found, files, starts)
    about = [
        {
            "rows": len(file),
            "digest": _digest(found.ids[start:end], contents[start:end]),
            "holds_strings": file.holds_strings,
            "has_images": "images" in file.columns(),
        }
        for file, (start, end) in zip(files, pairwise(starts), strict=True)
    ]
    arrays = found._asdict()
    if found.ids is not contents:
        arrays["contents"] = contents
    return Entry(arrays, {"files": about})


def _check_unique(found: Sorted, files: Sequence[PromptFile], starts: NDArray[np.int64]) -> None:
    repeats = np.flatnonzero(found.sorted_ids[1:] == found.sorted_ids[:-1])
    if not len(repeats):
        return
    places = []
    for row in found.order[repeats[0] : repeats[0] + 2]:
        index = int(np.searchsorted(starts, row, side="right")) - 1
        places.append(f"{files[index].name}, row {row - starts[index]}")
    raise DataError(
        f"the id {found.sorted_ids[repeats[0]]} occurs twice, in {places[0]} and in {places[1]} "
        f"({len(repeats)} repeats in all); give every row an id of its own, or leave "
        f"id_column out to have ids made from the rows"
    )


def _digest(ids: NDArray[np.int64], contents: NDArray[np.int64]) -> str:
    digest = hashlib.sha256(ids.data)
    digest.update(contents.data)
    return digest.hexdigest()
