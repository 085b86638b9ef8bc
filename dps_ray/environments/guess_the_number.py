"""Guess the number: the environment keeps a whole number secret and answers each guess with higher or lower.

    prompt       (32,46)4?    a number from 32 to 46, four guesses
    response     40           answered with   +;   (the number is higher)
    response     43           answered with   -;   (it is lower)
    response     41           ends the episode if it is the number

The score is 1 if the number is guessed within the allowed guesses, otherwise 0. Any text that is not a whole number is
answered with `?;` and costs a guess. Always guessing the middle of what is left finds one of n numbers in
log2(n + 1) guesses, rounded up.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from dps_ray.errors import RewardError
from dps_ray.prompts.dataset import Prompt

_GUESS = re.compile(r"[0-9]{1,12}")


class GuessTheNumber:
    """The episode of one prompt, with a ground truth such as {"secret": 41, "guesses": 4}, or the same as JSON."""

    def __init__(self) -> None:
        self._secret = 0
        self._left = 0

    def reset(self, prompt: Prompt) -> list[dict[str, Any]]:
        """Begins the episode. Returns the prompt's messages.

        Raises:
            RewardError: the ground truth names no secret number, or no positive number of guesses.
        """
        self._secret, self._left = _parse_truth(prompt.ground_truth)
        return prompt.messages

    def step(self, response: str) -> tuple[list[dict[str, Any]] | None, dict[str, float]]:
        """Answers a guess: the messages that follow it, or None at the end of the episode, and the score.

        Blanks around the guess, and a `;` at its end, do not matter.
        """
        self._left -= 1
        text = response.strip().removesuffix(";").rstrip()
        guess = int(text) if _GUESS.fullmatch(text) else None
        if guess == self._secret:
            return None, {"score": 1.0, "acc": 1.0}
        wrong = {"score": 0.0, "acc": 0.0}
        if self._left <= 0:
            return None, wrong
        shown = "?" if guess is None else "+" if self._secret > guess else "-"
        return [{"role": "user", "content": f"{shown};"}], wrong


def _parse_truth(truth: Any) -> tuple[int, int]:
    """The secret number and the number of guesses, at least 1."""
    try:
        fields = json.loads(truth) if isinstance(truth, str) else truth
        if not isinstance(fields, Mapping):
            raise TypeError
        secret, guesses = int(fields["secret"]), int(fields["guesses"])
        if guesses < 1:
            raise ValueError
    except (TypeError, ValueError, KeyError, OverflowError):
        raise RewardError(
            "guess_the_number needs a ground truth such as {'secret': 41, 'guesses': 4} (or that as JSON), "
            f"with at least one guess, not {truth!r}"
        ) from None
    return secret, guesses
