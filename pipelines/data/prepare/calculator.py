"""Expressions such as 3+4*5?, to be worked out with a calculator, for the environment `calculator`.

The levels are the operators of an expression. They take turns; a level that runs out of prompts is skipped. No prompt
occurs twice. Products come before sums, so levels such as +* are those that cannot be worked from left to right.
"""

import argparse
import random
import re
from collections.abc import Iterator

from rich.console import Console

from dps_ray.environments.calculator import calculate
from pipelines.data.prepare.distinct import by_level
from pipelines.data.prepare.output import add_output
from pipelines.data.prepare.rows import Row, add_sizes, write_generated

NUMBERS = range(2, 10)
_TERM = re.compile("[0-9]+|[-+*]")
# From levels that the start policy nearly always solves to levels that it hardly ever solves.
LEVELS = (
    *("++", "*+", "*-", "**"),
    *("+*", "-*", "++*", "-+*", "*+*", "*-*", "+*+", "-*-", "+**", "-**"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_output(parser)
    add_sizes(parser, train=3000, test=350)


def run(options: argparse.Namespace, console: Console) -> None:
    write_generated(options, console, rows(options.seed), model="--config=calculator")


def rows(seed: int) -> Iterator[Row]:
    """Yields distinct rows, without a split, in an order fixed by the seed, until there are no more."""
    rng = random.Random(seed)
    sizes = {level: len(NUMBERS) ** (len(level) + 1) for level in LEVELS}
    for level, expression in by_level(sizes, lambda level: make_expression(level, rng)):
        yield _row(level, expression)


def _row(level: str, expression: str) -> Row:
    return {
        "data_source": "calculator",
        "prompt": [{"role": "user", "content": f"{expression}?"}],
        "ability": "arithmetic",
        "reward_model": {"style": "rule", "ground_truth": str(value(expression))},
        "extra_info": {"level": level},
    }


def random_row(level: str, rng: random.Random) -> Row:
    """The row of a random expression of a level."""
    return _row(level, make_expression(level, rng))


def make_expression(level: str, rng: random.Random) -> str:
    """A random expression with these operators, such as `3+4*5` for `+*`."""
    first, *others = (str(rng.choice(NUMBERS)) for _ in range(len(level) + 1))
    return first + "".join(o + n for o, n in zip(level, others, strict=True))


def value(expression: str) -> int:
    """The value of an expression, products before sums."""
    terms = split(expression)
    while len(terms) > 1:
        at = next_operator(terms)
        terms[at - 1 : at + 2] = [str(calculate("".join(terms[at - 1 : at + 2])))]
    return int(terms[0])


def split(expression: str) -> list[str]:
    """The numbers and operators of an expression or prompt, in turn."""
    return _TERM.findall(expression)


def next_operator(terms: list[str]) -> int:
    """The position of the leftmost operator that may be applied now: a sum has to wait for a product after it."""
    at = 1
    while terms[at] != "*" and at + 2 < len(terms) and terms[at + 2] == "*":
        at += 2
    return at
