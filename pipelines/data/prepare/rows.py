"""Writes rows in verl's schema as train and test sets, with progress and a summary."""

import argparse
import shlex
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from rich.console import Console

from dps_ray.errors import DataError
from dps_ray.prompts.files import write_prompts
from pipelines.data.prepare.output import whole_folder
from pipelines.data.prepare.progress import progress

Row = dict[str, Any]


class Split(NamedTuple):
    """The rows of one file `name`.parquet."""

    name: str
    rows: Iterable[Row]
    size: int  # expected number of rows, for the progress bar
    schema: pa.Schema | None = None  # None: inferred from the first rows
    row_group_size: int = 1024


def in_split(row: Row, split: str, index: int) -> Row:
    """The row with its split and index added to `extra_info`, before the fields that are already there."""
    return {**row, "extra_info": {"split": split, "index": index, **row["extra_info"]}}


def write_splits(
    options: argparse.Namespace,
    console: Console,
    splits: Iterable[Split],
    model: str = "model.path=MODEL",
) -> None:
    """Writes all splits to `options.out` or none, then prints what was written and the command that trains on it.

    `model` is the override that names the model in that command, or the configuration that does.

    Raises:
        DataError: the folder already holds files, or rows have different types.
    """
    written = {}
    with whole_folder(options.out, options.force) as folder:
        for split in splits:
            file = folder / f"{split.name}.parquet"
            rows = _shown(split, console)
            written[split.name] = write_prompts(file, rows, split.row_group_size, split.schema)
    for name, rows_written in written.items():
        console.print(f"wrote {options.out / f'{name}.parquet'}: {rows_written:,} prompts")
    console.print(f"train on it: {_command(options.out, written, model)}")


def add_sizes(
    parser: argparse.ArgumentParser, train: int | None, test: int, from_file: bool = False
) -> None:
    """Adds the options for the numbers of prompts, with these defaults, and for the seed.

    `from_file`: rows may come from a user's file. All of its rows are used by default, so the default of
    `options.train` is None.
    """
    usual = [f"{train:,}"] if train else []
    usual += ["all of --from"] if from_file else []
    parser.add_argument(
        "--train",
        type=_count,
        default=None if from_file else train,
        metavar="N",
        help=f"number of prompts to train on ({', or '.join(usual)})",
    )
    parser.add_argument(
        "--test",
        type=_count,
        default=test,
        metavar="N",
        help=f"number of prompts to test on ({test:,}"
        f"{', held out of --from if there is no --test-from' if from_file else ''})",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed; the same seed gives the same files (0)"
    )


def write_generated(
    options: argparse.Namespace,
    console: Console,
    rows: Iterator[Row],
    row_group_size: int = 1024,
    model: str = "model.path=MODEL",
) -> None:
    """Writes the first `options.test` rows of a stream as the test set and the next `options.train` as the training
    set.

    The stream has no repeats, so no prompt is in both sets.

    Raises:
        DataError: the stream has too few rows.
    """

    def taken(split: str, size: int) -> Iterator[Row]:
        index = -1
        for index, row in enumerate(islice(rows, size)):
            yield in_split(row, split, index)
        if index + 1 < size:
            before = options.test if split == "train" else 0
            raise DataError(
                f"there are only {before + index + 1:,} different prompts of this kind, not "
                f"{options.test + options.train:,}; ask for fewer with --train and --test, or for more kinds"
            )

    sizes = {"test": options.test, "train": options.train}
    splits = [
        Split(name, taken(name, size), size, row_group_size=row_group_size)
        for name, size in sizes.items()
    ]
    write_splits(options, console, splits, model)


def _shown(split: Split, console: Console) -> Iterator[Row]:
    """Yields the rows and shows progress. Raises DataError if there are none."""
    done = 0
    with progress(split.name, split.size, console) as show:
        for done, row in enumerate(split.rows, 1):
            yield row
            if done % 256 == 0:
                show(done)
    if not done:
        raise DataError(
            f"no rows are left for {split.name}.parquet; name a file with other rows: they need an answer, and rows "
            "to train on must not be in a test set"
        )


def _command(out: Path, written: Iterable[str], model: str) -> str:
    """The command that trains on what was written. `written` are the names of splits."""
    tests = [str(out / f"{name}.parquet") for name in written if name != "train"]
    test = tests[0] if len(tests) == 1 else f"[{','.join(tests)}]"
    parts = [f"data.train={out / 'train.parquet'}", f"data.test={test}", model]
    return shlex.join(["python", "-m", "pipelines.grpo_dps", *filter(None, parts)])


def _count(text: str) -> int:
    digits = text.replace(",", "").replace("_", "")
    if not digits.isdecimal() or int(digits) < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size; write a whole number from 1, such as 2000"
        )
    return int(digits)
