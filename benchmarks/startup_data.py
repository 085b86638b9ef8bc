"""Pools of up to 9 x 10^7 prompts like Countdown's, as Parquet files in verl's schema, written in bulk by Arrow.

No prompt occurs twice: prompt i has the four digits of a permutation of i in base 97 as its numbers.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

TESTS = 500
LEVELS = 20  # values of extra_info.level, by which prompts are clustered
ROWS_PER_FILE = 1_250_000
_ROWS = 131_072  # made at a time
_ROW_GROUP = 1024
_BASE = 97
MOST = _BASE**4 - TESTS
_STRIDE = 31_415_927  # has no factor in common with _BASE**4, so multiplying by it permutes


class PoolFiles(NamedTuple):
    """The files of a pool; the prompts of `test` are in none of `train`."""

    train: list[Path]
    test: Path


def pool_files(
    folder: Path, prompts: int, tell: Callable[[str], None] = lambda message: None
) -> PoolFiles:
    """Returns the files of a pool of so many prompts. Those that are not in the folder are written.

    Raises ValueError if there are not so many different prompts.
    """
    if not 0 < prompts <= MOST:
        raise ValueError(f"{prompts:,} prompts: there are {MOST:,} different ones; ask for fewer")
    place = folder / f"prompts-{prompts}"
    place.mkdir(parents=True, exist_ok=True)
    test = place / "test.parquet"
    _write(test, MOST, TESTS)
    train = []
    for first in range(0, prompts, ROWS_PER_FILE):
        file = place / f"train-{first // ROWS_PER_FILE:03}.parquet"
        if not file.exists():
            tell(f"writing {file}")
        _write(file, first, min(ROWS_PER_FILE, prompts - first))
        train.append(file)
    return PoolFiles(train, test)


def rows(first: int, count: int) -> pa.Table:
    """Prompts `first` to `first + count` as a table in verl's schema."""
    index = np.arange(first, first + count, dtype=np.int64)
    drawn = index * _STRIDE % _BASE**4
    numbers = [pa.array(drawn // _BASE**place % _BASE + 1) for place in range(4)]
    target = pa.array(index * 7919 % 90 + 10)
    listed = _joined("[", *_between(numbers, ", "), "]")
    task = _joined(
        "Using the numbers ",
        listed,
        ", write an expression that equals ",
        target,
        ". You may use + - * / and each number exactly once. Give it in <answer> </answer> tags.",
    )
    starts = pa.array(np.arange(count + 1, dtype=np.int32))
    message = pa.StructArray.from_arrays([_repeated("user", count), task], ["role", "content"])
    truth = _joined('{"target": ', target, ', "numbers": ', listed, "}")
    reward = pa.StructArray.from_arrays(
        [_repeated("rule", count), truth], ["style", "ground_truth"]
    )
    extra = pa.StructArray.from_arrays(
        [pa.array(index), pa.array(drawn % LEVELS)], ["index", "level"]
    )
    return pa.table(
        {
            "data_source": _repeated("countdown", count),
            "prompt": pa.ListArray.from_arrays(starts, message),
            "ability": _repeated("math", count),
            "reward_model": reward,
            "extra_info": extra,
        }
    )


def _write(file: Path, first: int, count: int) -> None:
    if file.exists():
        return
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with pq.ParquetWriter(aside, rows(0, 1).schema) as writer:
            for start in range(first, first + count, _ROWS):
                made = rows(start, min(_ROWS, first + count - start))
                writer.write_table(made, row_group_size=_ROW_GROUP)
        os.replace(aside, file)
    finally:
        aside.unlink(missing_ok=True)


def _joined(*parts: pa.Array | str) -> pa.Array:
    texts = [part if isinstance(part, str) else part.cast(pa.string()) for part in parts]
    return pc.binary_join_element_wise(*texts, "")


def _between(parts: list[pa.Array], separator: str) -> list[pa.Array | str]:
    found: list[pa.Array | str] = []
    for part in parts:
        found += [part, separator]
    return found[:-1]


def _repeated(text: str, count: int) -> pa.Array:
    return pa.repeat(pa.scalar(text), count)
