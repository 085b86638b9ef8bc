"""The built-in tasks that start policies are trained for, and demonstrations of them with deliberate errors.

A demonstration is an episode: a scripted player with deliberate errors answers the environment turn by turn, so what the
environment says in a demonstration is what it says in a run. A player is a generator that yields its responses and is
sent the environment's answers. The arithmetic chains are an environment of one turn here.
"""

import random
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeAlias

from dps_ray.environments.calculator import Calculator
from dps_ray.environments.guess_the_number import GuessTheNumber
from dps_ray.prompts.dataset import Prompt
from dps_ray.tasks.arithmetic import LEVELS, SLIP, SLIP_TO_SUM, noisy_demonstration, score
from pipelines.data.prepare import arithmetic, calculator, guess_the_number
from pipelines.data.prepare.rows import Row

Player: TypeAlias = Generator[str, str, None]

# Probability that the first sum of an expression is computed before the product that follows it, by its operator.
SLIP_IN_ORDER = {"+": 0.6, "-": 0.85}
# Probability that a guess is any number of the range, whatever the answers so far.
SLIP_OF_MEMORY = 0.45


class Part(NamedTuple):
    """A stretch of a demonstration: a response, which the policy learns to write, or a text that it is given."""

    text: str
    written: bool


class Chains:
    """The arithmetic chains as an environment: the first response ends the episode."""

    def __init__(self) -> None:
        self._chain = ""

    def reset(self, prompt: Prompt) -> list[dict[str, Any]]:
        """Begins an episode. Returns the prompt's messages."""
        self._chain = prompt.ground_truth
        return prompt.messages

    def step(self, response: str) -> tuple[None, dict[str, float]]:
        """Scores the response."""
        return None, score(response, self._chain)


class Task(NamedTuple):
    """What a start policy is trained for.

    environment: plays an episode
    levels:      of the task's data
    make_row:    makes the row of a random prompt of a level
    play:        a player with deliberate errors, given the text of a prompt
    slips:       the constants, as JSON, that its errors depend on
    """

    environment: type[Chains] | type[Calculator] | type[GuessTheNumber]
    levels: tuple[Any, ...]
    make_row: Callable[[Any, random.Random], Row]
    play: Callable[[str, random.Random], Player]
    slips: Any


def demonstration(task: str, level: Any, rng: random.Random) -> list[Part]:
    """An episode of a random prompt of this level, by a player with deliberate errors. `task`: in `TASKS`."""
    environment = TASKS[task].environment()
    given = joined(environment.reset(prompt_of(TASKS[task].make_row(level, rng))))
    player = TASKS[task].play(given, rng)
    response = next(player)
    parts = []
    while True:
        parts += [Part(given, False), Part(response, True)]
        messages, _ = environment.step(response)
        if messages is None:
            return parts
        given = joined(messages)
        response = player.send(given)


def prompt_of(row: Row) -> Prompt:
    """The prompt that a row becomes when it is read."""
    truth = row["reward_model"]["ground_truth"]
    return Prompt(0, row["prompt"], row["data_source"], truth, row["extra_info"], [])


def joined(messages: Sequence[dict[str, Any]]) -> str:
    """The text of messages, joined as the start policies' chat template joins them."""
    return "".join(message["content"] for message in messages)


def _chain(prompt: str, rng: random.Random) -> Player:
    """Writes a chain with errors (`dps_ray.tasks.arithmetic.SLIP`)."""
    yield noisy_demonstration(prompt, rng)


def _calculate(prompt: str, rng: random.Random) -> Player:
    """Works an expression out with the calculator, sometimes in the wrong order (`SLIP_IN_ORDER`)."""
    terms = calculator.split(prompt)
    while len(terms) > 1:
        at = calculator.next_operator(terms)
        if at > 1 and rng.random() < SLIP_IN_ORDER[terms[1]]:
            at = 1
        answer = yield "".join(terms[at - 1 : at + 2])
        terms[at - 1 : at + 2] = [answer.removesuffix(";")]
    yield f"={terms[0]}"


def _guess(prompt: str, rng: random.Random) -> Player:
    """Guesses the middle of the numbers that are left, and often any number of the range (`SLIP_OF_MEMORY`)."""
    first, last, _ = guess_the_number.read(prompt)
    low, high = first, last
    while True:
        forgets = rng.random() < SLIP_OF_MEMORY
        guess = rng.randint(first, last) if forgets else (low + high) // 2
        if (yield str(guess)) == "+;":
            low = max(low, guess + 1)
        else:
            high = min(high, guess - 1)


TASKS = {
    "arithmetic": Task(Chains, LEVELS, arithmetic.random_row, _chain, (SLIP, SLIP_TO_SUM)),
    "calculator": Task(
        Calculator, calculator.LEVELS, calculator.random_row, _calculate, SLIP_IN_ORDER
    ),
    "guess_the_number": Task(
        GuessTheNumber,
        guess_the_number.LEVELS,
        guess_the_number.random_row,
        _guess,
        SLIP_OF_MEMORY,
    ),
}
