"""Countdown: reach a target from three or four numbers with + - * /, each number used once.

Without --from, problems are generated so that a solution exists. No two have the same target and numbers, in whatever
order. Rows are streamed: ten million need no more memory than a thousand. With --from, problems come from your own
file with columns target and nums, as in Jiayi-Pan/Countdown-Tasks-3to4.
"""

import argparse
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import pyarrow as pa
from rich.console import Console

from dps_ray.errors import DataError
from dps_ray.paths import path_option
from dps_ray.tasks import countdown
from dps_ray.tasks.countdown import Problem, PromptStyle
from pipelines.data.prepare.distinct import Seen
from pipelines.data.prepare.from_files import Source, add_files, schema, write_from_files
from pipelines.data.prepare.output import add_output, check_vacant
from pipelines.data.prepare.records import Record, Records
from pipelines.data.prepare.rows import Row, add_sizes, write_generated

COUNTS = {"countdown": (3, 4), "countdown4": (4,)}
TRAIN = 2000
TARGET = ("target",)
NUMBERS = ("nums", "numbers")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_output(parser)
    add_files(parser, required=False)
    parser.add_argument(
        "--test-from",
        type=path_option,
        metavar="FILE",
        help="file of test problems, used together with --from",
    )
    add_sizes(parser, TRAIN, test=512, from_file=True)
    parser.add_argument(
        "--style",
        choices=get_args(PromptStyle),
        default="chat",
        help="form of the prompt: chat (default) for instruction-tuned models; base, one message that ends "
        "where the model's thoughts begin, for models that only continue text",
    )


def run(options: argparse.Namespace, console: Console) -> None:
    if options.source is None:
        if options.test_from is not None:
            raise DataError(f"--test-from {options.test_from} goes with --from; name that file too")
        options.train = options.train or TRAIN
        stream = rows(options.seed, options.style, COUNTS[options.task])
        write_generated(options, console, stream)
        return
    check_vacant(options.out, options.force)
    tests = {"test": _source(options.test_from, options)} if options.test_from else {}
    write_from_files(options, console, _source(options.source, options), tests)


def rows(
    seed: int, style: PromptStyle, counts: Sequence[int] = COUNTS["countdown"]
) -> Iterator[Row]:
    """Yields distinct rows, without a split, in an order fixed by the seed. `counts`: how many numbers a problem may
    have."""
    rng, seen = random.Random(seed), Seen()
    while True:
        problem = countdown.make_problem(rng, counts)
        if seen.add(f"{problem.target} {sorted(problem.numbers)}"):
            yield _row(problem, style)


def _source(file: Path, options: argparse.Namespace) -> Source:
    records = Records(file)
    target, numbers = records.column(TARGET), records.column(NUMBERS)

    def row(record: Record) -> Row:
        wanted, given = record.fields.get(target), record.fields.get(numbers)
        if type(wanted) is not int:  # not isinstance, because bool is a subclass of int
            raise record.error(target, f"is {wanted!r}; write a whole number")
        if (
            not isinstance(given, list)
            or not given
            or any(type(n) is not int or n < 0 for n in given)
        ):
            raise record.error(
                numbers, f"is {given!r}; write a list of whole numbers >= 0, such as [4, 6, 1]"
            )
        return _row(Problem(given, wanted, ""), options.style)

    return Source(records, row, schema({"numbers": pa.int64()}, pa.string()))


def _row(problem: Problem, style: PromptStyle) -> Row:
    return {
        "data_source": "countdown",
        "prompt": countdown.prompt_messages(problem, style),
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": countdown.ground_truth(problem)},
        "extra_info": {"numbers": len(problem.numbers)},
    }
