"""A process that plays the episodes of an environment, and can be killed.

    EnvironmentProcess ── begin, step ──> dps_ray.processes: Player ──> an Episode for each of many

When a call does not return, the process is killed, and with it the other episodes in it. Nothing of them is lost: each is
played again with the responses that were written so far (see `EnvironmentProcess.play`).
"""

import time
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from dps_ray.environments.episode import Episode, MakeEnvironment, load_environment
from dps_ray.environments.protocol import Turn
from dps_ray.environments.settings import EnvironmentSettings
from dps_ray.errors import ConfigError, TurnError
from dps_ray.processes import Process, die_with_parent
from dps_ray.prompts.dataset import Prompt
from dps_ray.rewards.functions import name_of


class _Load(NamedTuple):
    """Asks to load the environment; answered by None."""


class _Begin(NamedTuple):
    """Asks to begin an episode; answered by its first messages."""

    key: Hashable
    prompt: Prompt
    seed: int


class _Step(NamedTuple):
    """Asks for the environment's answer to a response."""

    key: Hashable
    response: str


class _Forget(NamedTuple):
    """Asks to end all episodes; answered by None."""


class Player:
    """The function that the process calls: does what a request asks for."""

    def __init__(self, path: str, kwargs: Mapping[str, Any]) -> None:
        self._path, self._kwargs = path, dict(kwargs)
        self._make: MakeEnvironment | None = None
        self._episodes: dict[Hashable, Episode] = {}

    def __call__(self, request: Any) -> Turn | None:
        if isinstance(request, _Load):
            die_with_parent()
            self._make = load_environment(self._path, self._kwargs)
            return None
        if isinstance(request, _Forget):
            for episode in self._episodes.values():
                episode.close()
            self._episodes.clear()
            return None
        assert self._make is not None, "the environment is loaded first"
        if isinstance(request, _Begin):
            episode = Episode(self._make, request.prompt, request.seed)
            turn = episode.reset()
            self._episodes[request.key] = episode
            return turn
        turn = self._episodes[request.key].step(request.response)
        if turn.messages is None:
            self._episodes.pop(request.key).close()
        return turn


class Played(NamedTuple):
    """What an environment answered, and how long its calls took.

    seconds: of each call, in their order; more than one when an episode was played again
    """

    turn: Turn
    seconds: tuple[float, ...]


class EnvironmentProcess:
    """Plays episodes, any number at a time. Use it from one thread that lasts: the process ends with it.

    Args:
        settings: which environment, and how long a call may take.
        start: seconds in which the environment has to be loaded.
    """

    def __init__(self, settings: EnvironmentSettings, start: float) -> None:
        assert settings.path is not None, "there is an environment"
        self._path = settings.path
        self._player = Player(settings.path, settings.kwargs)
        self._timeout, self._start = settings.turn_timeout, start
        self._process: Process | None = None
        self._calls: dict[Hashable, int] = {}  # that the process has answered, by episode

    def start(self) -> None:
        """Load the environment, unless it is.

        Raises:
            ConfigError: it cannot be loaded.
        """
        if self._process is not None and self._process.popen.poll() is None:
            return
        self.close()
        process = self._process = Process(self._player)
        try:
            done, error = process.call(_Load(), self._start)
        except TimeoutError:
            why = f"was not loaded within {self._start:g} s (resources.wait)"
        except (EOFError, OSError):
            why = f"ended its process with status {process.popen.wait()} while it was loaded"
        else:
            if done:
                return
            self.close()
            raise error
        self.close()
        raise ConfigError(f"environment.path={self._path} {why}")

    def play(self, key: Hashable, prompt: Prompt, seed: int, responses: Sequence[str]) -> Played:
        """Return the answer to the last of the responses of an episode; the first messages if there are none.

        An episode that is not in the process, as that is new, is played from its beginning.

        Args:
            key: of the episode.
            responses: all that were written so far.

        Raises:
            ConfigError: the environment cannot be loaded.
            EpisodeError: the environment raised, or returned what is no messages or no reward.
            TurnError: it did not return.
        """
        self.start()
        had = self._calls.pop(key, 0)
        had = had if had <= len(responses) else 0  # it was asked before, and the answer was lost
        seconds = []
        for call in range(had, len(responses) + 1):
            began = time.monotonic()
            request = _Begin(key, prompt, seed) if call == 0 else _Step(key, responses[call - 1])
            turn = self._ask(request, prompt)
            seconds.append(time.monotonic() - began)
        if turn.messages is not None:
            self._calls[key] = len(responses) + 1
        return Played(turn, tuple(seconds))

    def forget(self) -> None:
        """End all episodes, as those of a batch that is done. One that is asked about again is played again."""
        self._calls.clear()
        if self._process is None:
            return
        try:
            self._process.call(_Forget(), self._timeout)
        except (TimeoutError, EOFError, OSError):
            self.close()

    def close(self) -> None:
        """End the process and what it started, if there is one."""
        self._calls.clear()
        if self._process is not None:
            self._process.kill()
            self._process = None

    def _ask(self, request: _Begin | _Step, prompt: Prompt) -> Turn:
        process = self._process
        assert process is not None, "it was started"
        try:
            done, answer = process.call(request, self._timeout)
        except TimeoutError:
            why = f"gave no answer within {self._timeout:g} s (environment.turn_timeout)"
        except (EOFError, OSError):
            why = f"ended its process with status {process.popen.wait()}"
        else:
            if not done:
                raise answer
            turn: Turn = answer
            return turn
        self.close()
        call = "reset" if isinstance(request, _Begin) else "step"
        raise TurnError(
            f"{call} of the environment {why} ({name_of(prompt)}); it must return on any response"
        )
