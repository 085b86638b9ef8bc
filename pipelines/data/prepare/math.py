r"""Mathematics from your own files of problems and answers, in JSON, JSONL or Parquet.

    python -m pipelines.prepare math --from train_math.json --test-from math500=MATH500.json \
        --test-from aime24=AIME24.json --out data/math

writes train.parquet, math500.parquet and aime24.parquet. The name of a test set becomes its data_source, so its
accuracy is reported separately. An answer may be text, a number, a list of accepted answers, a solution with the
answer in its last \boxed{}, or a solution that ends in "#### 72".
"""

import argparse
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console

from dps_ray import tasks
from dps_ray.errors import DataError
from dps_ray.paths import expanded
from dps_ray.tasks.final_answer import boxed
from pipelines.data.prepare.from_files import (
    MISSING,
    Source,
    add_files,
    schema,
    text_of,
    write_from_files,
)
from pipelines.data.prepare.output import add_output, check_vacant
from pipelines.data.prepare.records import Record, Records
from pipelines.data.prepare.rows import Row, add_sizes

PROBLEM = ("problem", "question", "prompt", "Problem", "Question")
ANSWER = ("answer", "final_answer", "ground_truth", "Answer", "solution", "Solution")
KEPT = ("level", "subject", "type", "subfield", "difficulty", "source", "unique_id", "id")
INSTRUCTION = r"Let's think step by step and output the final answer within \boxed{}."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_output(parser)
    add_files(parser, required=True)
    parser.add_argument(
        "--test-from",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="name and file of a test set; may be given several times",
    )
    add_sizes(parser, train=None, test=512, from_file=True)
    parser.add_argument(
        "--data-source", default="math", help="data_source of the rows from --from (math)"
    )
    add_answers(parser, INSTRUCTION)


def add_answers(parser: argparse.ArgumentParser, instruction: str) -> None:
    """Adds the options for files with problems and answers."""
    parser.add_argument(
        "--problem-column",
        metavar="NAME",
        help=f"column of problems (default: the first of {', '.join(PROBLEM[:3])})",
    )
    parser.add_argument(
        "--answer-column",
        metavar="NAME",
        help=f"column of answers (default: the first of {', '.join(ANSWER[:3])}, solution)",
    )
    parser.add_argument(
        "--skip-unanswered", action="store_true", help="leave out rows without an answer"
    )
    parser.add_argument(
        "--instruction",
        default=instruction,
        help=f"text added after each problem (default: {instruction})",
    )


def run(options: argparse.Namespace, console: Console) -> None:
    check_vacant(options.out, options.force)
    if not options.data_source:
        raise DataError("--data-source is empty; name the task that scores the rows, such as math")
    test_sets = {
        name: _source(file, name, options) for name, file in named_files(options.test_from).items()
    }
    train = _source(options.source, options.data_source, options)
    write_from_files(options, console, train, test_sets)
    unknown = [name for name in (options.data_source, *test_sets) if tasks.find(name) is None]
    if unknown:
        console.print(
            f"there is no built-in verifier for {', '.join(unknown)}: train with data.reward=FILE.py:FUNCTION"
        )


def named_files(arguments: list[str]) -> dict[str, Path]:
    """Parses arguments such as `aime24=AIME24.json` to files by name.

    Raises:
        DataError: an argument has no name, or its name is taken or not usable as a file name.
    """
    files: dict[str, Path] = {}
    for argument in arguments:
        name, equals, file = argument.partition("=")
        if not equals or not name or "/" in name or not file:
            raise DataError(
                f"--test-from {argument}: write NAME=FILE, such as aime24=AIME24.json; the name becomes "
                "the data_source of its rows"
            )
        if name in files or name == "train":
            raise DataError(f"--test-from {argument}: the name {name!r} is taken; give it another")
        try:
            files[name] = Path(expanded(file))
        except ValueError as error:
            raise DataError(f"--test-from {argument}: {error}") from None
    return files


def answers(record: Record, column: str) -> list[str]:
    r"""The accepted answers of a row, without repeats; empty if it has no answer.

    The answer in a text with a \boxed{} is the content of the last one; in a text with "####", it is what follows.

    Raises:
        DataError: the value is not a text, a number or a list of these; or a solution gives no answer.
    """
    value = record.fields.get(column)
    values = value if isinstance(value, list) else [value]
    if column.lower() == "solution":
        values = values[-1:]
    found = [_answer(record, column, one) for one in values]
    return list(dict.fromkeys(answer for answer in found if answer))


def _source(file: Path, data_source: str, options: argparse.Namespace) -> Source:
    records = Records(file)
    problem = records.column(PROBLEM, options.problem_column, "--problem-column")
    answer = records.column(ANSWER, options.answer_column, "--answer-column")
    kept = [name for name in KEPT if name in records.columns and name not in (problem, answer)]
    several = any(len(answers(record, answer)) > 1 for record in records)
    truth = pa.list_(pa.string()) if several else pa.string()

    def row(record: Record) -> Row | None:
        text, accepted = text_of(record, problem), answers(record, answer)
        if not accepted:
            if options.skip_unanswered:
                return None
            raise record.error(answer, MISSING)
        return {
            "data_source": data_source,
            "prompt": [{"role": "user", "content": f"{text} {options.instruction}".strip()}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": accepted if several else accepted[0]},
            "extra_info": {name: _text(record.fields.get(name)) for name in kept},
        }

    return Source(records, row, schema(dict.fromkeys(kept, pa.string()), truth))


def _answer(record: Record, column: str, value: Any) -> str:
    if value is None or value != value:  # pandas writes missing values as NaN
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise record.error(
            column, f"is {str(value)[:60]!r}; write a text, a number or a list of these"
        )
    if not isinstance(value, str):
        return _text(value)
    if "####" in value:
        return value.rpartition("####")[2].strip()
    answer = boxed(value, longest=None)
    if answer is None and column.lower() == "solution":
        raise record.error(
            column,
            r"has no \boxed{} that says the answer; name a column with answers by --answer-column",
        )
    return (value if answer is None else answer).strip()


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value)
