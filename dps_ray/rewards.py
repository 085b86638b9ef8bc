"""Reward functions: finding the one a user names, and calling it on a response.

The signature is verl's:

    compute_score(data_source, solution_str, ground_truth, extra_info=None)
        -> float | {"score": float, "acc": float, ...}
"""

import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from dps_ray import tasks
from dps_ray.errors import NonFiniteError, RewardError
from dps_ray.prompts import Prompt

RewardFunction = Callable[..., Any]

_WANTED = "return a number, or {'score': number, 'acc': number from 0 to 1}, for each response"


class NonFiniteRewardError(RewardError, NonFiniteError):
    """A reward is NaN or infinite; the message names the prompt."""


def load_reward(spec: str | None) -> RewardFunction:
    """The function that `spec` names.

    None is the built-in `dps_ray.tasks.compute_score`; else `package.module:function` or
    `path/to/file.py:function`. RewardError when there is no such module or function.
    """
    if spec is None:
        return tasks.compute_score
    source, _, name = spec.rpartition(":")
    if not source or not name:
        raise RewardError(
            f"{spec!r} names no reward function; write 'package.module:function' or "
            f"'path/to/file.py:function'"
        )
    module = _load_file(Path(source)) if source.endswith(".py") else _load_module(source)
    function = getattr(module, name, None)
    if not callable(function):
        there = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise RewardError(
            f"{source} has no function {name!r}; it has: {', '.join(sorted(there)) or 'none'}"
        )
    return function


def score_response(reward: RewardFunction, prompt: Prompt, text: str) -> tuple[float, float]:
    """Score and accuracy of one response to a prompt.

    The score is what the learner maximises; the accuracy, from 0 to 1, is what the solve state is
    made from. A function that gives no accuracy is taken to mean right by a score of 1 or more:
    anything less is a shaped score, and a group of wrong answers must not look partly right.

    Raises:
        RewardError: the function raised, or returned no number; names prompt and value.
        NonFiniteRewardError: the score is NaN or infinite.
        MemoryError: the function's own, for whoever set its limit.
    """
    where = name_of(prompt)
    try:
        value = reward(
            data_source=prompt.data_source,
            solution_str=text,
            ground_truth=prompt.ground_truth,
            extra_info=prompt.extra_info,
        )
    except MemoryError:
        raise
    except RewardError as error:
        raise RewardError(f"{where}: {error}") from error
    except Exception as error:
        raise RewardError(
            f"the reward function raised {type(error).__name__}: {error} ({where}); "
            f"it must {_WANTED}"
        ) from error
    fields = value if isinstance(value, Mapping) else {"score": value}
    score = _number(fields.get("score"))
    if score is None or not math.isfinite(score):
        kind = RewardError if score is None else NonFiniteRewardError
        raise kind(f"the reward function returned {short(value)} ({where}); {_WANTED}")
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


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise RewardError(
            f"cannot import the reward module {name!r}: {type(error).__name__}: {error}"
        ) from error


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        there = sorted(p.name for p in path.parent.glob("*.py"))
        raise RewardError(
            f"no reward file {path}; {path.parent} has: {', '.join(there) or 'no .py file'}"
        )
    spec = importlib.util.spec_from_file_location(f"reward_{path.stem}", path)
    assert spec is not None  # a .py file always has a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look a class's module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise RewardError(
            f"cannot load the reward file {path}: {type(error).__name__}: {error}"
        ) from error
    return module
