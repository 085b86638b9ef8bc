"""A pocket calculator: the policy works out an expression with one operation a turn, then writes the result.

    prompt       3+4*5?
    response     4*5          answered with   20;
    response     3+20         answered with   23;
    response     =23          ends the episode

The calculator adds, subtracts and multiplies two whole numbers, so an expression takes several calls, and the policy has
to know which operation comes first. The score is 1 for the right result, otherwise 0. A call that the calculator cannot
read is answered with `?;` and costs a turn. `environment.max_turns` limits the turns.
"""

import re
from typing import Any

from dps_ray.errors import RewardError
from dps_ray.prompts.dataset import Prompt

MAX_DIGITS = 12  # of a number that the calculator takes; longer ones it cannot read

_CALL = re.compile(rf"(-?[0-9]{{1,{MAX_DIGITS}}})([+*-])(-?[0-9]{{1,{MAX_DIGITS}}})")
_RESULT = re.compile(rf"=(-?[0-9]{{1,{2 * MAX_DIGITS}}})")


class Calculator:
    """The episode of one prompt, whose ground truth is the result of its expression, such as '23'."""

    def __init__(self) -> None:
        self._result = 0

    def reset(self, prompt: Prompt) -> list[dict[str, Any]]:
        """Begins the episode. Returns the prompt's messages.

        Raises:
            RewardError: the ground truth is not a whole number.
        """
        try:
            self._result = int(prompt.ground_truth)
        except (TypeError, ValueError):
            raise RewardError(
                f"calculator needs a ground truth such as '23', not {prompt.ground_truth!r}"
            ) from None
        return prompt.messages

    def step(self, response: str) -> tuple[list[dict[str, Any]] | None, dict[str, float]]:
        """Answers a response: the messages that follow it, or None at the end of the episode, and the score.

        `=23` ends the episode. `4*5` is a call. Blanks around both, and a `;` at the end, do not matter.
        """
        text = response.strip().removesuffix(";").rstrip()
        result = _RESULT.fullmatch(text)
        if result:
            right = float(int(result.group(1)) == self._result)
            return None, {"score": right, "acc": right}
        value = calculate(text)
        shown = "?" if value is None else str(value)
        return [{"role": "user", "content": f"{shown};"}], {"score": 0.0, "acc": 0.0}


def calculate(call: str) -> int | None:
    """The value of one operation on two whole numbers, such as `4*5` or `-3-20`; None for any other text.

    No text is evaluated as code. Numbers have at most `MAX_DIGITS` digits, so every call returns at once.
    """
    found = _CALL.fullmatch(call)
    if found is None:
        return None
    left, right = int(found.group(1)), int(found.group(3))
    match found.group(2):
        case "+":
            return left + right
        case "-":
            return left - right
        case _:
            return left * right
