"""Demonstrations with deliberate errors, which start policies are trained on: texts, and who wrote each of them.

Those of an environment are episodes: a scripted player with deliberate errors answers the environment turn by turn, so
what the environment says in a demonstration is what it says in a run. A player is a generator that yields its responses
and is sent the environment's answers.
"""

import random
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeAlias

from dps_ray.environments.calculator import Calculator
from dps_ray.environments.guess_the_number import GuessTheNumber
from dps_ray.prompts.dataset import Prompt
from dps_ray.tasks import arithmetic
from pipelines.data.prepare import calculator, guess_the_number
from pipelines.data.prepare.rows import Row

Player: TypeAlias = Generator[str, str, None]

# Probability that the first sum of an expression is computed before the product that follows it, by its operator.
SLIP_IN_ORDER = {"+": 0.6, "-": 0.85}
# Probability that a guess takes no notice of the answers so far.
SLIP_OF_MEMORY = 0.15


class Part(NamedTuple):
    """A stretch of a demonstration: a response, which the policy learns to write, or a text that it is given."""

    text: str
    written: bool


def arithmetic_chain(level: arithmetic.Level, rng: random.Random) -> list[Part]:
    """A prompt of the arithmetic chains and a response with errors (`dps_ray.tasks.arithmetic.SLIP`)."""
    prompt = arithmetic.make_problem(level, rng)
    return [Part(prompt, False), Part(arithmetic.noisy_demonstration(prompt, rng), True)]


def calculator_episode(level: str, rng: random.Random) -> list[Part]:
    """An expression worked out with the calculator, sometimes in the wrong order (`SLIP_IN_ORDER`)."""
    expression = calculator.make_expression(level, rng)
    return _episode(Calculator(), calculator.row(level, expression), _calculate(expression, rng))


def guessing_episode(level: guess_the_number.Level, rng: random.Random) -> list[Part]:
    """A number guessed at random among those that are left, and sometimes among all (`SLIP_OF_MEMORY`)."""
    prompt = guess_the_number.make_prompt(level, rng)
    return _episode(GuessTheNumber(), guess_the_number.row(level, prompt, rng), _guess(prompt, rng))


def _calculate(expression: str, rng: random.Random) -> Player:
    terms = calculator.split(expression)
    while len(terms) > 1:
        at = calculator.next_operator(terms)
        if at > 1 and rng.random() < SLIP_IN_ORDER[terms[1]]:
            at = 1
        answer = yield "".join(terms[at - 1 : at + 2])
        terms[at - 1 : at + 2] = [answer.removesuffix(";")]
    yield f"={terms[0]}"


def _guess(prompt: str, rng: random.Random) -> Player:
    first, last, _ = guess_the_number.read(prompt)
    low, high = first, last
    while True:
        forgets = rng.random() < SLIP_OF_MEMORY
        guess = rng.randint(first, last) if forgets else rng.randint(low, high)
        if (yield str(guess)) == "+;":
            low = max(low, guess + 1)
        else:
            high = min(high, guess - 1)


def _episode(environment: Calculator | GuessTheNumber, row: Row, player: Player) -> list[Part]:
    """The texts of an episode, beginning with the prompt. Messages are joined as the chat template joins them."""
    prompt = Prompt(
        0,
        row["prompt"],
        row["data_source"],
        row["reward_model"]["ground_truth"],
        row["extra_info"],
        [],
    )
    messages = environment.reset(prompt)
    parts = [Part(_joined(messages), False)]
    response = next(player)
    while True:
        messages, _ = environment.step(response)
        parts.append(Part(response, True))
        if messages is None:
            return parts
        parts.append(Part(_joined(messages), False))
        response = player.send(parts[-1].text)


def _joined(messages: Sequence[dict[str, Any]]) -> str:
    return "".join(message["content"] for message in messages)


class Task(NamedTuple):
    """What a start policy is trained for.

    demonstrate: makes a demonstration of a level
    slips:       the constants, as JSON, that demonstrations depend on
    """

    demonstrate: Callable[[Any, random.Random], list[Part]]
    slips: Any


TASKS = {
    "arithmetic": Task(arithmetic_chain, (arithmetic.SLIP, arithmetic.SLIP_TO_SUM)),
    "calculator": Task(calculator_episode, SLIP_IN_ORDER),
    "guess_the_number": Task(guessing_episode, SLIP_OF_MEMORY),
}
