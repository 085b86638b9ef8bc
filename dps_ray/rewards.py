"""Reward functions: finding the one a user names, and calling it on a group of responses.

The signature is verl's:

    compute_score(data_source, solution_str, ground_truth, extra_info=None)
        -> float | {"score": float, "acc": float, ...}
"""

import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dps_ray import tasks
from dps_ray.errors import RewardError
from dps_ray.prompts import Prompt

RewardFunction = Callable[..., Any]

_WANTED = "return a number, or {'score': number, 'acc': number from 0 to 1}, for each response"


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


def score_group(
    reward: RewardFunction, prompt: Prompt, texts: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores and accuracies, float64 (k,) each, of the k responses `texts` to one prompt.

    The score is what the learner maximises; the accuracy, from 0 to 1, is what the solve state is
    made from. A function that gives no accuracy is taken to mean right by a score of 1 or more:
    anything less is a shaped score, and a group of wrong answers must not look partly right.

    RewardError, naming prompt and value, when the function raises or returns no finite number.
    """
    results = [_score(reward, prompt, text) for text in texts]
    scores, accuracies = np.array(results, dtype=np.float64).reshape(-1, 2).T
    return scores, accuracies


def _score(reward: RewardFunction, prompt: Prompt, text: str) -> tuple[float, float]:
    where = f"data_source {prompt.data_source!r}, prompt {prompt.id}"
    try:
        value = reward(
            data_source=prompt.data_source,
            solution_str=text,
            ground_truth=prompt.ground_truth,
            extra_info=prompt.extra_info,
        )
    except RewardError as error:
        raise RewardError(f"{where}: {error}") from error
    except Exception as error:
        raise RewardError(
            f"the reward function raised {type(error).__name__}: {error} ({where}); "
            f"it must {_WANTED}"
        ) from error
    fields = value if isinstance(value, Mapping) else {"score": value}
    score: Any = fields.get("score")
    if not _is_finite(score):
        raise RewardError(f"the reward function returned {_short(value)} ({where}); {_WANTED}")
    accuracy: Any = fields.get("acc", score >= 1)
    if not _is_finite(accuracy) or not 0 <= accuracy <= 1:
        raise RewardError(
            f"the reward function returned the accuracy {_short(accuracy)} ({where}); {_WANTED}"
        )
    return float(score), float(accuracy)


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, Real | np.bool_) and math.isfinite(value)
    except OverflowError:  # an int too large for a float
        return False


def _short(value: Any) -> str:
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
