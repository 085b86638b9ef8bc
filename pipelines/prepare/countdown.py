"""Countdown: reach a target from three or four numbers. Problems are generated so that a solution exists.

No problem occurs twice, whatever the order of its numbers. Rows are streamed: ten million take no more
memory than a thousand.
"""

import argparse
import random
from collections.abc import Iterator

from rich.console import Console

from dps_ray.tasks import countdown
from dps_ray.tasks.countdown import PromptStyle
from pipelines.prepare.distinct import Seen
from pipelines.prepare.rows import Row, add_generated, write_generated


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_generated(parser, train=2000, test=512)


def run(options: argparse.Namespace, console: Console) -> None:
    write_generated(options, console, rows(options.seed, options.style))


def rows(seed: int, style: PromptStyle) -> Iterator[Row]:
    """Rows without a split, in the order of a seed."""
    rng, seen = random.Random(seed), Seen()
    while True:
        problem = countdown.make_problem(rng)
        if seen.add(f"{problem.target} {sorted(problem.numbers)}"):
            yield row(problem, style)


def row(problem: countdown.Problem, style: PromptStyle) -> Row:
    return {
        "data_source": "countdown",
        "prompt": countdown.prompt_messages(problem, style),
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": countdown.ground_truth(problem)},
        "extra_info": {"numbers": len(problem.numbers)},
    }
