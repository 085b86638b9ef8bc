"""Reward functions: finding the one a user names, and calling it on a response.

The signature is verl's, and all arguments are given by keyword:

    compute_score(data_source, solution_str, ground_truth, extra_info=None)
        -> float | {"score": float, "acc": float, ...}

What else works as one: an async function, an instance with `__call__`, a `functools.partial`, `**kwargs` in place of
some parameters, a function without those it does not need, and a class whose instances can be called.
"""

import asyncio
import functools
import inspect
import json
import math
from collections.abc import Awaitable, Callable, Mapping
from copy import deepcopy
from numbers import Real
from typing import Any

import numpy as np

from dps_ray.errors import NonFiniteError, RewardError
from dps_ray.plugins import load_object
from dps_ray.prompts.dataset import Prompt

RewardFunction = Callable[..., Any]

_WANTED = "return a number, or {'score': number, 'acc': number from 0 to 1}, for each response"
_GIVEN = ("data_source", "solution_str", "ground_truth", "extra_info")
_LONGEST_TRUTH = 1000  # characters of a ground truth in a trial text
BUILT_IN = "dps_ray.tasks:compute_score"

# What code raises that takes a text apart without looking whether it has the expected form.
_CAUSED_BY_TEXTS = (ValueError, IndexError, AssertionError, SyntaxError, UnboundLocalError)


class NonFiniteRewardError(RewardError, NonFiniteError):
    """A reward is NaN or infinite; the message names the prompt."""


class TextError(RewardError):
    """The reward function raised what the text of the response may have caused, such as a ValueError: on
    another text of the same prompt it may work."""


def load_reward(spec: str | None) -> RewardFunction:
    """The function that `spec` names, to be called with verl's four keywords.

    `package.module:function` or `path/to/file.py:function` (see `dps_ray.plugins.load_object`); None is the
    built-in one, `BUILT_IN`. Of a class an instance is made, once, without arguments.

    Raises:
        RewardError: there is no such module or function, it cannot be loaded, or it requires a parameter that
            is not one of the four.
    """
    spec = BUILT_IN if spec is None else spec
    function = load_object(spec, "reward", "function", RewardError)
    if inspect.isclass(function):
        function = _instance(function, spec)
    return _given_what_it_takes(function, spec)


def score_response(reward: RewardFunction, prompt: Prompt, text: str) -> tuple[float, float]:
    """Score and accuracy of one response to a prompt.

    The score is what the learner maximises; the accuracy, from 0 to 1, is what the solve state is
    made from. A function that gives no accuracy is taken to mean right by a score of 1 or more:
    anything less is a shaped score, and a group of wrong answers must not look partly right.

    The function gets copies of ground truth and `extra_info`, so what it changes in them is not seen by its next
    call. What an async function returns is awaited, always in the same event loop, so a client that it keeps
    between calls goes on working.

    Raises:
        RewardError: the function raised, or returned no number; names prompt and value.
        TextError: it raised what the text may have caused.
        NonFiniteRewardError: the score is NaN or infinite.
        MemoryError: the function's own, for whoever set its limit.
    """
    where = name_of(prompt)
    try:
        value = reward(
            data_source=prompt.data_source,
            solution_str=text,
            ground_truth=deepcopy(prompt.ground_truth),
            extra_info=deepcopy(prompt.extra_info),
        )
        if inspect.isawaitable(value):
            value = _event_loop().run(_awaited(value))
    except MemoryError:
        raise
    except RewardError as error:
        raise TextError(f"{where}: {error}") from error
    except Exception as error:
        kind = TextError if _may_be_the_texts_fault(error) else RewardError
        raise kind(
            f"the reward function raised {type(error).__name__}: {error} ({where}); "
            f"it must {_WANTED}"
        ) from error
    fields = value if isinstance(value, Mapping) else {"score": value}
    score = _number(fields.get("score"))
    if score is None or not math.isfinite(score):
        no_score = RewardError if score is None else NonFiniteRewardError
        raise no_score(f"the reward function returned {short(value)} ({where}); {_WANTED}")
    given = fields.get("acc", score >= 1)
    accuracy = _number(given)
    if accuracy is None or not 0 <= accuracy <= 1:
        raise RewardError(
            f"the reward function returned the accuracy {short(given)} ({where}); {_WANTED}"
        )
    return score, accuracy


def name_of(prompt: Prompt) -> str:
    """How errors name a prompt."""
    return f"data_source {prompt.data_source!r}, prompt {prompt.id}"


def bare_truth(prompt: Prompt) -> str:
    """The ground truth as text, and no more of it than a response might be long."""
    truth = prompt.ground_truth
    text = truth if isinstance(truth, str) else json.dumps(truth, default=str)
    return text[:_LONGEST_TRUTH]


def trial_text(prompt: Prompt) -> str:
    """A response that a reward function might be shown: the ground truth in each of the usual formats.

    For a trial call, which is to get past looking for the answer.
    """
    truth = bare_truth(prompt)
    return (
        f"<think>\nThe answer is {truth}.\n</think>\n<answer>{truth}</answer>\n"
        f"The final answer is \\boxed{{{truth}}}\n#### {truth}"
    )


@functools.cache
def _event_loop() -> asyncio.Runner:
    """The one that everything asynchronous of this process runs in."""
    return asyncio.Runner()


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value


def _may_be_the_texts_fault(error: Exception) -> bool:
    """Whether code may have raised this because a text has not the form that it expects."""
    no_match = isinstance(error, TypeError | AttributeError) and "NoneType" in str(error)
    return no_match or isinstance(error, _CAUSED_BY_TEXTS)


def _number(value: Any) -> float | None:
    """None for what is no number, and for an int that is too large for a float."""
    try:
        return float(value) if isinstance(value, Real | np.bool_) else None
    except OverflowError:
        return None


def short(value: Any) -> str:
    """The beginning of its repr, for errors."""
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + "..."


def _instance(class_: type, spec: str) -> RewardFunction:
    if not any("__call__" in vars(each) for each in class_.__mro__):
        raise RewardError(
            f"{spec} is a class whose instances cannot be called; give it a method __call__ with the "
            f"parameters {', '.join(_GIVEN)}, or name a function"
        )
    try:
        instance: RewardFunction = class_()
    except Exception as error:
        raise RewardError(
            f"cannot make an instance of the class {spec}, which is done without arguments: "
            f"{type(error).__name__}: {error}"
        ) from error
    return instance


def _given_what_it_takes(function: RewardFunction, spec: str) -> RewardFunction:
    """The same function, or one that leaves out those of the four keywords that it does not take.

    What a `functools.partial` has bound stays as it is bound.

    Raises:
        RewardError: it requires something else, or does not take the response.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C, some have none: the trial call tells
        return function
    bound = function.keywords if isinstance(function, functools.partial) else {}
    kinds = inspect.Parameter
    named = {
        p.name for p in parameters if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
    }
    takes_all = any(p.kind == kinds.VAR_KEYWORD for p in parameters)
    given = [name for name in _GIVEN if (takes_all or name in named) and name not in bound]
    missing = [
        p.name
        for p in parameters
        if p.default is kinds.empty
        and p.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
        and (p.name not in given or p.kind == kinds.POSITIONAL_ONLY)
    ]
    called = f"it is called with the keywords {', '.join(_GIVEN)}"
    if missing:
        raise RewardError(
            f"the reward function {spec} requires {', '.join(map(repr, missing))}, which it is not given: "
            f"{called}. Rename the parameter, or give it a default"
        )
    if "solution_str" not in given and "solution_str" not in bound:
        raise RewardError(
            f"the reward function {spec} does not take 'solution_str', the response: {called}"
        )
    if len(given) == len(_GIVEN):
        return function
    return lambda **fields: function(**{name: fields[name] for name in given})
