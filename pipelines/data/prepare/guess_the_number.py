"""Secret numbers to be guessed, with prompts such as (32,46)4?, for the environment `guess_the_number`.

A prompt gives the range and the number of guesses. A level is a size of ranges with a number of guesses; the levels take
turns, and one that runs out of prompts is skipped. No prompt occurs twice, so each range has one secret number.
"""

import argparse
import json
import random
import re
from collections.abc import Iterator
from typing import NamedTuple

from rich.console import Console

from pipelines.data.prepare.distinct import by_level
from pipelines.data.prepare.output import add_output
from pipelines.data.prepare.rows import Row, add_sizes, write_generated

NUMBERS = range(10, 100)  # of two digits each
_PROMPT = re.compile(r"\(([0-9]+),([0-9]+)\)([0-9]+)\?")


class Level(NamedTuple):
    """The difficulty of a prompt: ranges of `smallest` to `largest` numbers, and how many guesses there are."""

    smallest: int
    largest: int
    guesses: int

    def __str__(self) -> str:
        return f"{self.smallest} to {self.largest} numbers, {self.guesses} guesses"


# Halving what is left always finds the number at these levels, except at the last one.
LEVELS = (
    *(Level(4, 7, guesses) for guesses in (3, 4)),
    *(Level(8, 11, guesses) for guesses in (4, 5)),
    *(Level(12, 15, guesses) for guesses in (4, 5)),
    *(Level(16, 23, guesses) for guesses in (5, 6)),
    *(Level(24, 31, guesses) for guesses in (5, 6)),
    Level(12, 15, 3),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_output(parser)
    add_sizes(parser, train=2500, test=330)


def run(options: argparse.Namespace, console: Console) -> None:
    write_generated(options, console, rows(options.seed), model="--config=guess_the_number")


def rows(seed: int) -> Iterator[Row]:
    """Yields distinct rows, without a split, in an order fixed by the seed, until there are no more."""
    rng = random.Random(seed)
    sizes = {level: distinct_prompts(level) for level in LEVELS}
    for level, prompt in by_level(sizes, lambda level: make_prompt(level, rng)):
        yield _row(level, prompt, rng)


def _row(level: Level, prompt: str, rng: random.Random) -> Row:
    low, high, guesses = read(prompt)
    truth = {"secret": rng.randint(low, high), "guesses": guesses}
    return {
        "data_source": "guess_the_number",
        "prompt": [{"role": "user", "content": prompt}],
        "ability": "search",
        "reward_model": {"style": "rule", "ground_truth": json.dumps(truth)},
        "extra_info": {"level": str(level)},
    }


def random_row(level: Level, rng: random.Random) -> Row:
    """The row of a random prompt of a level."""
    return _row(level, make_prompt(level, rng), rng)


def make_prompt(level: Level, rng: random.Random) -> str:
    """A random prompt of this level, such as `(32,46)4?`."""
    size = rng.randint(level.smallest, level.largest)
    low = rng.choice(NUMBERS[: len(NUMBERS) - size + 1])
    return f"({low},{low + size - 1}){level.guesses}?"


def distinct_prompts(level: Level) -> int:
    """The number of different prompts of this level."""
    return sum(len(NUMBERS) - size + 1 for size in range(level.smallest, level.largest + 1))


def read(prompt: str) -> tuple[int, int, int]:
    """The least and the greatest number and the number of guesses of a prompt by `make_prompt`."""
    found = _PROMPT.fullmatch(prompt)
    assert found is not None
    low, high, guesses = map(int, found.groups())
    return low, high, guesses
