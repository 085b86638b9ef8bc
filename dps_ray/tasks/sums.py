"""Plain arithmetic with very short prompts, such as `38 + 57 =`, for real pretrained models.

A response is right if its first whole number is the result. If it contains an equation, such as
`38 + 57 = 95`, it is read from its first equals sign on. Small models get some of these problems wrong
some of the time, and the task is short enough for a CPU.
"""

import random
import re
from typing import Any, NamedTuple

from dps_ray.errors import RewardError

MAX_CHARACTERS = 200


class Level(NamedTuple):
    """The difficulty of a problem: `terms` numbers of `digits` digits, joined by one operator.

    One-digit factors of a product are 2 to 9, because 0 and 1 would be trivial.
    """

    operator: str  # "+", "-" or "*"
    digits: int
    terms: int = 2

    @property
    def numbers(self) -> range:
        lowest = (
            {"+": 0, "-": 0, "*": 2}[self.operator] if self.digits == 1 else 10 ** (self.digits - 1)
        )
        return range(lowest, 10**self.digits)


LEVELS = {
    "sums-1": Level("+", 1),
    "sums-2": Level("+", 2),
    "sums-3": Level("+", 3),
    "three-1": Level("+", 1, terms=3),
    "three-2": Level("+", 2, terms=3),
    "differences-2": Level("-", 2),
    "products-1": Level("*", 1),
    "products-2": Level("*", 2),
}

_NUMBER = re.compile(r"-?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)")


def make_problem(level: Level, rng: random.Random) -> str:
    """A random expression of this level, such as `38 + 57`. A difference is never negative."""
    numbers = [rng.choice(level.numbers) for _ in range(level.terms)]
    if level.operator == "-":
        numbers.sort(reverse=True)
    return f" {level.operator} ".join(map(str, numbers))


def distinct_problems(level: Level) -> int:
    """The number of different expressions of this level."""
    n = len(level.numbers)
    return n * (n + 1) // 2 if level.operator == "-" else n**level.terms


def result(expression: str) -> int:
    """The value of an expression made by `make_problem`."""
    first, operator, *others = expression.split()
    value = int(first)
    for number in others[::2]:
        value = {"+": value + int(number), "-": value - int(number), "*": value * int(number)}[
            operator
        ]
    return value


def score(response: str, truth: Any) -> dict[str, float]:
    """Scores 1 if the response's first number, after its first `=` if there is one, equals `truth`; otherwise 0.

    Raises:
        RewardError: `truth` is not a whole number, so no answer could be right.
    """
    try:
        wanted = int(truth)
    except (TypeError, ValueError):
        raise RewardError(f"sums needs a ground truth such as '95', not {truth!r}") from None
    beginning = response[:MAX_CHARACTERS]
    found = _NUMBER.search(beginning, beginning.find("=") + 1)
    right = float(found is not None and int(found.group().replace(",", "")) == wanted)
    return {"score": right, "acc": right}
