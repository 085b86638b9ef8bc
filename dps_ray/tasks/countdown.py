"""Countdown: reach a target from three or four numbers with + - * /, each number used once.

The response ends in `<answer> (25 - 5) * 3 </answer>`. Scores follow the published Countdown
recipe (TinyZero): 1.0 for a right answer, 0.1 for an answer tag with a wrong answer, otherwise 0.

A policy in training may write any text, and the verifier must return quickly for all of it. It
reads only the last answer tag. Before Python's parser runs, it rejects expressions that are longer
than `MAX_CHARACTERS` or contain characters that arithmetic does not need. It never calls `eval`; it
evaluates the syntax tree, accepting only listed operations. It computes in exact fractions, and only
if the expression uses the given numbers.
"""

import ast
import json
import operator
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal, NamedTuple

from dps_ray.errors import RewardError

FORMAT_SCORE = 0.1
MAX_CHARACTERS = 200
MAX_DEPTH = 20

PromptStyle = Literal["chat", "base"]

NUMBERS = range(1, 100)
TARGETS = range(10, 100)

_ARITHMETIC = re.compile(r"[0-9+\-*/() \t\r\n]+")
_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class Problem(NamedTuple):
    """Numbers, a target, and one expression of these numbers that equals the target."""

    numbers: list[int]
    target: int
    solution: str


def make_problem(rng: random.Random, counts: Sequence[int] = (3, 4)) -> Problem:
    """A random solvable problem; how many numbers it has is drawn from `counts`.

    Combining the numbers at random gives the target, so a solution exists. If the result is
    outside `TARGETS` or equals one of the numbers, the draw is repeated.
    """
    count = rng.choice(counts)
    while True:
        numbers = [rng.choice(NUMBERS) for _ in range(count)]
        target, solution = _combine_at_random(numbers, rng)
        if target in TARGETS and target not in numbers:
            return Problem(numbers, target, solution)


def prompt_messages(problem: Problem, style: PromptStyle) -> list[dict[str, str]]:
    """The messages that ask a model to solve a problem.

    Style `chat` is for instruction-tuned models. Style `base` is for models that only continue text:
    one message holds the whole conversation and ends where the model's thoughts begin.
    """
    task = (
        f"Using the numbers {problem.numbers}, write an expression that equals {problem.target}. "
        "You may use + - * / and parentheses, and must use each number exactly once. "
        "Think it through inside <think> </think> tags, then give the expression inside "
        "<answer> </answer> tags, for example <answer> (1 + 2) / 3 </answer>."
    )
    if style == "chat":
        system = "You are a helpful assistant. You think first and then give the answer."
        return [{"role": "system", "content": system}, {"role": "user", "content": task}]
    conversation = (
        "A conversation between a user and an assistant. The user asks a question, and the "
        "assistant thinks about it first and then gives the answer.\n"
        f"User: {task}\nAssistant: Let me solve this step by step.\n<think>"
    )
    return [{"role": "user", "content": conversation}]


def ground_truth(problem: Problem) -> str:
    """The problem's ground truth as JSON, because a string column can hold the ground truths of any task."""
    return json.dumps({"target": problem.target, "numbers": problem.numbers})


def score(response: str, truth: Any) -> dict[str, float]:
    """Scores the expression in the last answer tag.

    Args:
        truth: {"target": int, "numbers": [int, ...]}, or the same as a JSON string.

    Raises:
        RewardError: `truth` is neither, so no answer could be right.
    """
    target, numbers = _parse_truth(truth)
    answer = last_answer(response)
    if answer is None:
        return {"score": 0.0, "acc": 0.0}
    if evaluate(answer, numbers) == target:
        return {"score": 1.0, "acc": 1.0}
    return {"score": FORMAT_SCORE, "acc": 0.0}


def last_answer(response: str) -> str | None:
    """The content of the last complete `<answer> </answer>`; None if there is none."""
    end = response.rfind("</answer>")
    start = response.rfind("<answer>", 0, max(end, 0))
    return response[start + len("<answer>") : end] if 0 <= start < end else None


def evaluate(expression: str, numbers: list[int]) -> Fraction | None:
    """The value of an expression that uses each of `numbers` exactly once; None for any other text.

    Allowed are + - * /, minus as a sign, parentheses and whole numbers.
    """
    if len(expression) > MAX_CHARACTERS or not _ARITHMETIC.fullmatch(expression):
        return None
    try:
        tree = ast.parse(" ".join(expression.split()), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    constants = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    if Counter(constants) != Counter(numbers):
        return None
    try:
        return _value(tree, MAX_DEPTH)
    except (_NotArithmeticError, ZeroDivisionError):
        return None


class _NotArithmeticError(Exception):
    """The syntax tree contains an operation that is not allowed, or is too deep."""


def _value(node: ast.expr, depth: int) -> Fraction:
    if depth == 0:
        raise _NotArithmeticError
    match node:
        case ast.Constant(value=int(number)):
            return Fraction(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, depth - 1)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            return _OPERATIONS[type(op)](_value(left, depth - 1), _value(right, depth - 1))
    raise _NotArithmeticError


def _parse_truth(truth: Any) -> tuple[int, list[int]]:
    try:
        fields = json.loads(truth) if isinstance(truth, str) else truth
        if not isinstance(fields, Mapping):
            raise TypeError
        return int(fields["target"]), [int(n) for n in fields["numbers"]]
    except (TypeError, ValueError, KeyError, OverflowError):
        raise RewardError(
            f"countdown needs a ground truth such as {{'target': 24, 'numbers': [4, 6, 1]}} "
            f"(or that as JSON), not {truth!r}"
        ) from None


def _combine_at_random(numbers: list[int], rng: random.Random) -> tuple[int, str]:
    """Combines two random parts by a random operation until one is left. All results are integers >= 0."""
    parts = [(n, str(n)) for n in numbers]
    while len(parts) > 1:
        (low, low_text), (high, high_text) = sorted(
            parts.pop(rng.randrange(len(parts))) for _ in range(2)
        )
        divides = low > 0 and high % low == 0
        symbol = rng.choice("+-*/" if divides else "+-*")
        result = {"+": high + low, "-": high - low, "*": high * low, "/": high // max(low, 1)}
        parts.append((result[symbol], f"({high_text} {symbol} {low_text})"))
    value, text = parts[0]
    return value, text[1:-1]
