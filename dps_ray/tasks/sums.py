"""Plain arithmetic in very few tokens, such as `38 + 57 =`, for real pretrained models.

A response is right when its first whole number is the result; a response that writes an equation
(`38 + 57 = 95`) is read from its first equals sign. Small models get some of these wrong some of the
time, on a CPU too, where longer tasks would take too long.
"""

import random
import re
from typing import Any, NamedTuple

from dps_ray.errors import RewardError

MAX_CHARACTERS = 200


class Level(NamedTuple):
    """How hard a problem is: `terms` numbers of `digits` digits, joined by one operator.

    Numbers of a product's level are 2 to 9 where they have one digit: 0 and 1 would be trivial.
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
    """An expression of that level, such as `38 + 57`; a difference is never below zero."""
    numbers = [rng.choice(level.numbers) for _ in range(level.terms)]
    if level.operator == "-":
        numbers.sort(reverse=True)
    return f" {level.operator} ".join(map(str, numbers))


def distinct_problems(level: Level) -> int:
    """How many different expressions the level has."""
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
    """1 when the response's first number (after its first `=`, if it has one) is `truth`, else 0.

    Raises:
        RewardError: `truth` is no whole number, for then no answer could be right.
    """
    try:
        wanted = int(truth)
    except (TypeError, ValueError):
        raise RewardError(f"sums needs a ground truth such as '95', not {truth!r}") from None
    beginning = response[:MAX_CHARACTERS]
    found = _NUMBER.search(beginning, beginning.find("=") + 1)
    right = float(found is not None and int(found.group().replace(",", "")) == wanted)
    return {"score": right, "acc": right}
