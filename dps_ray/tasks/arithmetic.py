"""Chains of single-digit arithmetic modulo 10, worked from left to right.

    prompt    6+6+9*7*5=
    response  6+6=2,2+9=1,1*7=7,7*5=5;

Operators have no precedence: each step applies the next operator to the result so far. A response is
right only if the whole chain is right, so longer chains and harder operators make harder prompts. A
small policy trained on noisy demonstrations makes errors that reinforcement learning can correct.
"""

import math
import random
from typing import NamedTuple

FIRST_NUMBERS = range(10)
OPERANDS = range(2, 10)  # 0 and 1 would make a step trivial


class Level(NamedTuple):
    """The difficulty of a problem: `operations` steps, `multiplications` of them products.

    The other steps are sums, and a third of these are differences unless `subtraction` is False.
    """

    operations: int
    multiplications: int
    subtraction: bool = True

    def __str__(self) -> str:
        products = _count(self.multiplications, "product") if self.subtraction else "sums only"
        return f"{_count(self.operations, 'step')}, {products}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


# From levels that the start policy always solves to levels that it hardly ever solves.
LEVELS = (
    *(Level(n, 0, subtraction=False) for n in (1, 2, 3, 4)),
    *(
        Level(n, m)
        for n, m in [
            *((8, 4), (8, 6), (7, 5), (7, 3), (2, 1), (4, 1), (3, 2), (5, 2)),
            *((4, 3), (5, 4), (6, 3), (6, 4), (6, 5), (6, 6), (5, 5), (4, 4)),
        ]
    ),
)

# Probability that a demonstrated step is wrong. RL then mostly corrects the products.
SLIP = {"+": 0.005, "-": 0.12, "*": 0.70}
SLIP_TO_SUM = 0.6  # fraction of the wrong differences and products that are computed as a sum


def make_problem(level: Level, rng: random.Random) -> str:
    """A random prompt of this level, such as `6+6+9*7*5=`."""
    others = "++-" if level.subtraction else "+"
    operators = ["*"] * level.multiplications
    operators += [rng.choice(others) for _ in range(level.operations - level.multiplications)]
    rng.shuffle(operators)
    first = rng.choice(FIRST_NUMBERS)
    return f"{first}" + "".join(f"{o}{rng.choice(OPERANDS)}" for o in operators) + "="


def distinct_problems(level: Level) -> int:
    """The number of different prompts of this level."""
    n, m = level.operations, level.multiplications
    operators = math.comb(n, m) * (2 if level.subtraction else 1) ** (n - m)
    count: int = len(FIRST_NUMBERS) * len(OPERANDS) ** n * operators
    return count


def demonstration(prompt: str) -> str:
    """The right response to a prompt made by `make_problem`."""
    return _chain(prompt, None)


def noisy_demonstration(prompt: str, rng: random.Random) -> str:
    """A response in which each step is wrong with the probability `SLIP` of its operator.

    Errors propagate: the steps after a wrong one continue from its result.
    """
    return _chain(prompt, rng)


def score(response: str, chain: str) -> dict[str, float]:
    """Scores 1 if `response` equals `chain`, the right one, otherwise 0."""
    right = float(response == chain)
    return {"score": right, "acc": right}


def _chain(prompt: str, rng: random.Random | None) -> str:
    result, steps = int(prompt[0]), []
    for operator, digit in zip(prompt[1:-1:2], prompt[2:-1:2], strict=True):
        value = _apply(result, operator, int(digit))
        if rng is not None and rng.random() < SLIP[operator]:
            value = _slip(result, operator, int(digit), rng)
        steps.append(f"{result}{operator}{digit}={value}")
        result = value
    return ",".join(steps) + ";"


def _apply(left: int, operator: str, right: int) -> int:
    if operator == "+":
        return (left + right) % 10
    if operator == "-":
        return (left - right) % 10
    return (left * right) % 10


def _slip(left: int, operator: str, right: int, rng: random.Random) -> int:
    if operator != "+" and rng.random() < SLIP_TO_SUM:
        return _apply(left, "+", right)
    return rng.randrange(10)
