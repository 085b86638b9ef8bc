"""Chains of arithmetic modulo 10 such as 6+6+9*7*5=, what the built-in start policy is made for.

No prompt occurs twice. They go round the 20 levels of difficulty; a level that has no more of its own is
passed over (chains of one sum: 80 prompts), so the others have a few more.
"""

import argparse
import random
from collections.abc import Iterator

from rich.console import Console

from dps_ray.tasks import arithmetic
from pipelines.data.prepare.distinct import by_level
from pipelines.data.prepare.output import add_output
from pipelines.data.prepare.rows import Row, add_sizes, write_generated


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_output(parser)
    add_sizes(parser, train=3300, test=440)


def run(options: argparse.Namespace, console: Console) -> None:
    write_generated(options, console, rows(options.seed), model="")


def rows(seed: int) -> Iterator[Row]:
    """Rows without a split, in the order of a seed, until there are no more."""
    rng = random.Random(seed)
    sizes = {level: arithmetic.distinct_problems(level) for level in arithmetic.LEVELS}
    for level, prompt in by_level(sizes, lambda level: arithmetic.make_problem(level, rng)):
        yield {
            "data_source": "arithmetic",
            "prompt": [{"role": "user", "content": prompt}],
            "ability": "arithmetic",
            "reward_model": {"style": "rule", "ground_truth": arithmetic.demonstration(prompt)},
            "extra_info": {"level": str(level)},
        }
