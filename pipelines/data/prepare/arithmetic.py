"""Chains of arithmetic modulo 10 such as 6+6+9*7*5=, the task of the built-in start policy.

No prompt occurs twice. The 20 levels of difficulty take turns. A level that runs out of prompts is skipped, and the
other levels get a few more: chains of one sum have only 80 prompts.
"""

import argparse
import random
from collections.abc import Iterator

from rich.console import Console

from dps_ray.tasks import arithmetic
from dps_ray.tasks.arithmetic import Level
from pipelines.data.prepare.distinct import by_level
from pipelines.data.prepare.output import add_output
from pipelines.data.prepare.rows import Row, add_sizes, write_generated


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_output(parser)
    add_sizes(parser, train=3300, test=440)


def run(options: argparse.Namespace, console: Console) -> None:
    write_generated(options, console, rows(options.seed), model="")


def rows(seed: int) -> Iterator[Row]:
    """Yields distinct rows, without a split, in an order fixed by the seed, until there are no more."""
    rng = random.Random(seed)
    sizes = {level: arithmetic.distinct_problems(level) for level in arithmetic.LEVELS}
    for level, prompt in by_level(sizes, lambda level: arithmetic.make_problem(level, rng)):
        yield _row(level, prompt)


def random_row(level: Level, rng: random.Random) -> Row:
    """The row of a random prompt of a level."""
    return _row(level, arithmetic.make_problem(level, rng))


def _row(level: Level, prompt: str) -> Row:
    return {
        "data_source": "arithmetic",
        "prompt": [{"role": "user", "content": prompt}],
        "ability": "arithmetic",
        "reward_model": {"style": "rule", "ground_truth": arithmetic.demonstration(prompt)},
        "extra_info": {"level": str(level)},
    }
