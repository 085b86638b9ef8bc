r"""Geometry with pictures: synthetic figures with exact answers, or problems from your own file.

Without --from, figures of 19 kinds are drawn: lengths, angles and areas of triangles, quadrilaterals and circles, to
scale and rotated at random. No problem occurs twice. With --from, rows come from a file with columns images, problem
and answer, as in hiyouga/geometry3k. Every picture is decoded once to check it. <image> marks where a picture belongs
in a problem; without marks, the pictures come first.
"""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from rich.console import Console

from dps_ray.errors import DataError
from dps_ray.paths import path_option
from pipelines.data.prepare.from_files import (
    MISSING,
    Source,
    add_files,
    schema,
    text_of,
    write_from_files,
)
from pipelines.data.prepare.math import ANSWER, PROBLEM, add_answers, answers
from pipelines.data.prepare.output import add_output, check_vacant
from pipelines.data.prepare.pictures import pictures
from pipelines.data.prepare.records import Record, Records
from pipelines.data.prepare.rows import Row, add_sizes, write_generated

TRAIN = 2000
IMAGES = ("images", "image")
PLACEHOLDER = "<image>"
INSTRUCTION = (
    r"First think about it inside <think> </think> tags, then put the final answer within \boxed{}."
)
_ROW_GROUP = 64  # rows of a row group; few, because they hold pictures


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
    add_answers(parser, INSTRUCTION)


def run(options: argparse.Namespace, console: Console) -> None:
    if options.source is None:
        if options.test_from is not None:
            raise DataError(f"--test-from {options.test_from} goes with --from; name that file too")
        options.train = options.train or TRAIN
        write_generated(options, console, rows(options.seed, options.instruction), _ROW_GROUP)
        return
    check_vacant(options.out, options.force)
    tests = {"test": _source(options.test_from, options)} if options.test_from else {}
    write_from_files(options, console, _source(options.source, options), tests)


def rows(seed: int, instruction: str) -> Iterator[Row]:
    """Yields distinct rows of figures, without a split. The kinds take turns until there are no more."""
    from pipelines.data.prepare.figures import (
        KINDS,  # imports matplotlib, which other tasks do not need
    )

    rng = random.Random(seed)
    left = {kind: rng.sample(numbers, len(numbers)) for kind, (_, numbers) in KINDS.items()}
    while left:
        for kind in list(left):
            figure = KINDS[kind][0](*left[kind].pop())
            if not left[kind]:
                del left[kind]
            images = [{"bytes": figure.drawing.png(rng.randrange(0, 360, 15)), "path": None}]
            yield _row(figure.question, images, figure.answer, instruction, {"kind": kind})


def _source(file: Path, options: argparse.Namespace) -> Source:
    records = Records(file)
    problem = records.column(PROBLEM, options.problem_column, "--problem-column")
    answer = records.column(ANSWER, options.answer_column, "--answer-column")
    images = records.column(IMAGES)

    def row(record: Record) -> Row | None:
        accepted = answers(record, answer)
        if not accepted:
            if options.skip_unanswered:
                return None
            raise record.error(answer, MISSING)
        if len(accepted) > 1:
            raise record.error(answer, f"has {len(accepted)} answers; give one")
        text, shown = text_of(record, problem), pictures(record, images)
        places = text.count(PLACEHOLDER)
        if places not in (0, len(shown)):
            raise record.error(
                problem, f"has {places} {PLACEHOLDER} for {len(shown)} pictures; write one for each"
            )
        return _row(text, shown, accepted[0], options.instruction, {})

    return Source(records, row, schema({}, pa.string(), images=True), _ROW_GROUP)


def _row(problem: str, images: list[Row], answer: str, instruction: str, extra_info: Row) -> Row:
    if PLACEHOLDER not in problem:
        problem = PLACEHOLDER * len(images) + problem
    return {
        "data_source": "geometry",
        "prompt": [{"role": "user", "content": f"{problem} {instruction}".strip()}],
        "images": images,
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": answer},
        "extra_info": extra_info,
    }
