"""Environments of users: finding one by name, and playing an episode with checks on everything that it returns.

A class with Gymnasium's methods works as well. It is recognised by a `reset` that takes `seed` and `options`:

    reset(seed=..., options={"prompt": prompt}) -> (observation, info)
    step(response) -> (observation, reward, terminated, truncated, info)

An observation is a text or a list of messages; `info["acc"]` is the accuracy.
"""

import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import deepcopy
from numbers import Real
from typing import Any

import numpy as np

from dps_ray.environments import BUILT_IN
from dps_ray.environments.protocol import Turn
from dps_ray.errors import ConfigError, EpisodeError, NonFiniteError
from dps_ray.plugins import load_object
from dps_ray.prompts.dataset import Prompt
from dps_ray.rewards.functions import name_of, short

MakeEnvironment = Callable[[], Any]

_MESSAGES = "a text, or a list of messages {'role': ..., 'content': text}"
_STEP = f"return (messages, reward): messages are {_MESSAGES}, or None at the end; the reward is a number, or {{'score': number, 'acc': number from 0 to 1}}"


class NonFiniteScoreError(EpisodeError, NonFiniteError):
    """A reward of an environment is NaN or infinite; the message names the prompt."""


def load_environment(path: str, kwargs: Mapping[str, Any]) -> MakeEnvironment:
    """Returns a function that makes an environment for one episode.

    Args:
        path: a name in `BUILT_IN`, `package.module:Class` or `path/to/file.py:Class`.
        kwargs: for the constructor.

    Raises:
        ConfigError: there is no such class, it cannot be imported or made, or it lacks a method.
    """
    if ":" not in path and path not in BUILT_IN:
        near = difflib.get_close_matches(path, BUILT_IN, 1)
        guess = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"environment.path={path} is no built-in environment (there are: {', '.join(BUILT_IN) or 'none'}){guess} "
            "Name one of your own as package.module:Class or path/to/file.py:Class"
        )
    kind = load_object(BUILT_IN.get(path, path), "environment", "Class")

    def make() -> Any:
        return kind(**deepcopy(dict(kwargs)))

    try:
        made = make()
    except Exception as error:
        raise ConfigError(
            f"environment.path={path} cannot be made with environment.kwargs={dict(kwargs)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    missing = [name for name in ("reset", "step") if not callable(getattr(made, name, None))]
    if missing:
        raise ConfigError(
            f"environment.path={path} has no method {' and no method '.join(missing)}; an environment has "
            "reset(prompt) and step(response)"
        )
    _close(made)
    return make


class Episode:
    """One episode of an environment.

    Args:
        make: see `load_environment`.
        prompt: is given to the environment without its images, as a copy.
        seed: for an environment whose `reset` takes one.
    """

    def __init__(self, make: MakeEnvironment, prompt: Prompt, seed: int) -> None:
        self._prompt = prompt._replace(images=[])
        self._seed = seed
        self._environment = self._call("the constructor", make)
        self.steps = 0
        """Calls to `step` so far."""

    def reset(self) -> Turn:
        """Returns the messages that the policy first reads.

        Raises:
            EpisodeError: the environment raised, or returned no messages.
        """
        reset = self._environment.reset
        parameters = inspect.signature(reset).parameters
        prompt = deepcopy(self._prompt)
        if {"seed", "options"} <= parameters.keys():
            found = self._call("reset", reset, seed=self._seed, options={"prompt": prompt})
            if not (isinstance(found, tuple) and len(found) == 2):
                raise self._wrong("reset", found, "as in Gymnasium, return (observation, info)")
            found = found[0]
        elif "seed" in parameters:
            found = self._call("reset", reset, prompt, seed=self._seed)
        else:
            found = self._call("reset", reset, prompt)
        messages = _messages(found)
        if messages is None:
            raise self._wrong("reset", found, f"return {_MESSAGES}")
        return Turn(messages)

    def step(self, response: str) -> Turn:
        """Returns the environment's answer to a response.

        Raises:
            EpisodeError: the environment raised, or returned no messages or no reward.
            NonFiniteScoreError: the reward is NaN or infinite.
        """
        found = self._call("step", self._environment.step, response)
        self.steps += 1
        if not isinstance(found, tuple) or len(found) not in (2, 5):
            raise self._wrong("step", found, _STEP)
        if len(found) == 5:
            observation, reward, terminated, truncated, info = found
            over = bool(terminated or truncated)
            fields = {"score": reward}
            if isinstance(info, Mapping) and "acc" in info:
                fields["acc"] = info["acc"]
        else:
            observation, reward = found
            over = observation is None
            fields = dict(reward) if isinstance(reward, Mapping) else {"score": reward}
        messages = None if over else _messages(observation)
        if messages is None and not over:
            raise self._wrong("step", found, _STEP)
        score = _number(fields.get("score"))
        accuracy = _number(fields["acc"]) if "acc" in fields else None
        if score is None or ("acc" in fields and (accuracy is None or not 0 <= accuracy <= 1)):
            raise self._wrong("step", found, _STEP)
        if not math.isfinite(score):
            raise NonFiniteScoreError(str(self._wrong("step", found, _STEP)))
        return Turn(messages, score, accuracy)

    def close(self) -> None:
        """Ends the episode."""
        _close(self._environment)

    def _call(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise EpisodeError(
                f"{name} of the environment raised {type(error).__name__}: {error} ({name_of(self._prompt)})"
            ) from error

    def _wrong(self, name: str, found: Any, wanted: str) -> EpisodeError:
        return EpisodeError(
            f"{name} of the environment returned {short(found)} ({name_of(self._prompt)}); {wanted}"
        )


def _messages(found: Any) -> list[dict[str, Any]] | None:
    """The messages that an environment returned; None if they are none."""
    if isinstance(found, str):
        return [{"role": "user", "content": found}]
    if not isinstance(found, list | tuple) or not found:
        return None
    texts = [
        isinstance(each, Mapping)
        and isinstance(each.get("role"), str)
        and isinstance(each.get("content"), str)
        for each in found
    ]
    return [dict(each) for each in found] if all(texts) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, Real | np.bool_) else None


def _close(environment: Any) -> None:
    close = getattr(environment, "close", None)
    if callable(close):
        with suppress(Exception):  # the episode is over, and its rewards are known
            close()
