"""Turns a user's files into train and test sets: assigns the rows, and leaves out unanswered and duplicate ones."""

import argparse
import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

import pyarrow as pa
from rich.console import Console

from dps_ray.errors import DataError
from dps_ray.paths import path_option
from pipelines.data.prepare.records import Record, Records
from pipelines.data.prepare.rows import Row, Split, in_split, write_splits

MISSING = "has no answer; give one, or leave such rows out with --skip-unanswered"


class Source(NamedTuple):
    """A user's file whose columns have been checked."""

    records: Records
    row: Callable[
        [Record], Row | None
    ]  # returns None for a row without an answer, which is left out
    schema: pa.Schema
    row_group_size: int = 1024


def add_files(parser: argparse.ArgumentParser, required: bool) -> None:
    """Adds the option `--from` for a user's file. Each task defines its own `--test-from`."""
    parser.add_argument(
        "--from",
        dest="source",
        type=path_option,
        metavar="FILE",
        required=required,
        help="your own file of rows to train on, .json, .jsonl or .parquet"
        + ("" if required else "; without it, problems are generated"),
    )


def write_from_files(
    options: argparse.Namespace,
    console: Console,
    train: Source,
    tests: Mapping[str, Source],
) -> None:
    """Writes train.parquet and a file for each test set; see `write_splits`.

    Without test sets, `options.test` random rows of `train`, drawn by `options.seed`, become
    test.parquet. Rows without an answer are left out, and so are training rows whose text and pictures
    are also in a test set; the numbers of both are printed. `options.train`, if not None, is the largest
    number of rows in train.parquet.

    Raises:
        DataError: a file is malformed; no output is left then.
    """
    held: frozenset[int] = frozenset()
    if not tests:
        size = train.records.size
        if options.test >= size:
            raise DataError(
                f"{train.records.file} has {size:,} rows, so {options.test:,} cannot be held out to test on; "
                "ask for fewer with --test, or name a file with --test-from"
            )
        held = frozenset(random.Random(options.seed).sample(range(size), options.test))
        tests = {"test": train}
    left_out: Counter[str] = Counter()
    tested: set[bytes] = set()

    def test_rows(name: str, source: Source) -> Iterator[Row]:
        index = 0
        for record in source.records:
            if held and record.row not in held:
                continue
            row = source.row(record)
            if row is None:
                left_out[f"of {name} without an answer"] += 1
                continue
            tested.add(_content(row))
            yield in_split(row, "test", index)
            index += 1

    def train_rows() -> Iterator[Row]:
        index = 0
        for record in train.records:
            if record.row in held:
                continue
            row = train.row(record)
            if row is None:
                left_out["of train without an answer"] += 1
            elif _content(row) in tested:
                left_out["of train that are in a test set too"] += 1
            else:
                yield in_split(row, "train", index)
                index += 1

    splits = [
        Split(
            name,
            test_rows(name, source),
            len(held) or source.records.size,
            source.schema,
            source.row_group_size,
        )
        for name, source in tests.items()
    ]
    size = min(train.records.size - len(held), options.train or train.records.size)
    rows = islice(train_rows(), options.train)
    splits.append(Split("train", rows, size, train.schema, train.row_group_size))
    write_splits(options, console, splits)
    for what, rows_left_out in left_out.items():
        console.print(f"left out: {rows_left_out:,} rows {what}")


def text_of(record: Record, column: str) -> str:
    """The text in a column of a row. Raises DataError if it is missing or blank."""
    value = record.fields.get(column)
    if not isinstance(value, str):
        raise record.error(column, f"is {str(value)[:60]!r}, no text; write a string")
    if not value.strip():
        raise record.error(column, "holds no text; write the problem there")
    return value.strip()


def schema(extra: Mapping[str, pa.DataType], truth: pa.DataType, images: bool = False) -> pa.Schema:
    """verl's schema. `extra` gives the types of further fields of `extra_info`, besides split and index."""
    text = pa.string()
    fields = {
        "data_source": text,
        "prompt": pa.list_(pa.struct({"role": text, "content": text})),
        **({"images": pa.list_(pa.struct({"bytes": pa.binary(), "path": text}))} if images else {}),
        "ability": text,
        "reward_model": pa.struct({"style": text, "ground_truth": truth}),
        "extra_info": pa.struct({"split": text, "index": pa.int64(), **extra}),
    }
    return pa.schema(fields)


def _content(row: Row) -> bytes:
    """A hash of a prompt's texts and pictures."""
    digest = hashlib.blake2b(digest_size=16)
    for message in row["prompt"]:
        digest.update(message["content"].encode())
    for image in row.get("images", ()):
        digest.update(image["bytes"])
    return digest.digest()
