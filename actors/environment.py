"""Environments of tasks over several turns, in actors of their own.

`EnvironmentActor` is the actor, `Environments` the driver's view of all of them, `Playing` the episodes of one batch. The
environment runs in a child process of the actor (`dps_ray/environments/process.py`), which is ended when a call takes too
long. The actor itself may be lost too. A call tells everything that the episode has had so far, so any actor can answer it.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray

from actors.health import Quarantine
from actors.managed_actor import RestartTracker
from actors.open_calls import ActorPool, OpenCalls
from actors.process import environment, log_to
from actors.verifier import Verifiers
from dps_ray.config import Config, EnvironmentSettings, StateSettings
from dps_ray.config.evaluation import EvaluationConfig
from dps_ray.environments.episode import NonFiniteScoreError
from dps_ray.environments.process import EnvironmentProcess, Played
from dps_ray.errors import DataError, DPSError, EpisodeError, ModelError, TurnError
from dps_ray.failpoints import failpoint
from dps_ray.groups import ScoredGroup
from dps_ray.prompts.dataset import Prompt


class Call(NamedTuple):
    """A call to an episode: which one, and how many responses it has had."""

    prompt_id: int
    episode: int
    responses: int


@dataclass(frozen=True)
class EnvironmentSetup:
    """The settings of an environment's actor."""

    settings: EnvironmentSettings
    to_start: float  # seconds
    patience: float  # seconds that failures of a batch may take before the rest of its episodes are given up
    logs: Path


@ray.remote
class EnvironmentActor:
    """One actor, which plays any number of episodes, one call at a time."""

    def __init__(self, setup: EnvironmentSetup, index: int):
        log_to(setup.logs, f"environment-{index}")
        self._index = index
        self._process = EnvironmentProcess(setup.settings, setup.to_start)
        self._patience = setup.patience
        self._batch = -1
        self._wasted = 0.0  # seconds spent on calls of this batch that failed
        self._failed: dict[int, EpisodeError] = {}  # by prompt id, in this batch

    def start(self) -> None:
        """Load the environment.

        Raises:
            ConfigError: it cannot be loaded.
        """
        failpoint("environment.start", environment=self._index)
        self._process.start()

    def play(
        self, call: Call, prompt: Prompt, seed: int, responses: list[str], batch: int
    ) -> Played | EpisodeError:
        """Return the environment's answer to the last response, or its first messages; or the error of the episode.

        Args:
            responses: all of the episode so far.
            batch: number of the batch; once failures in a batch have taken too long, the rest of it is given up.

        Raises:
            ConfigError: the environment cannot be loaded.
        """
        failpoint("environment.play", environment=self._index, **call._asdict())
        if batch != self._batch:
            self._process.forget()
            self._batch, self._wasted, self._failed = batch, 0.0, {}
        if (
            prompt.id in self._failed
        ):  # its group is dropped, so its other episodes would be for nothing
            return self._failed[prompt.id]
        if self._wasted > self._patience:
            return EpisodeError(
                f"an episode of prompt {prompt.id} was not played, as calls that failed took {self._wasted:.0f} s "
                "before it; lower environment.turn_timeout, or raise timeouts.score"
            )
        began = time.monotonic()
        try:
            return self._process.play((prompt.id, call.episode), prompt, seed, responses)
        except EpisodeError as error:
            self._wasted += time.monotonic() - began
            self._failed[prompt.id] = error
            return error


class Environments(ActorPool):
    """All actors that play episodes, as the driver uses them.

    Args:
        place: returns, for the index of an actor, the Ray options that say where it runs, and with what.
    """

    def __init__(
        self,
        config: Config | EvaluationConfig,
        restarts: RestartTracker,
        quarantine: Quarantine,
        place: Callable[[int], dict[str, Any]],
    ):
        self.settings = config.environment
        self.rule = config.states if isinstance(config, Config) else StateSettings()
        self.max_prompt_length = config.data.max_prompt_length
        self._seed = config.seed
        self._stop_on_nonfinite = config.recovery.on_nonfinite == "stop"
        self._quarantine = quarantine
        self._failed = 0
        self._batches = 0
        self.seconds: list[float] = []
        """How long each call of the last batch took."""
        setup = EnvironmentSetup(
            self.settings,
            to_start=config.resources.wait,
            # Half, so that an actor whose episodes fail is not mistaken for a silent one.
            patience=config.timeouts.score / 2,
            logs=config.folder / "logs",
        )

        def make(index: int) -> Any:
            options = EnvironmentActor.options(  # type: ignore[attr-defined]
                **place(index), runtime_env=environment(threads=1)
            )
            return options.remote(setup, index)

        super().__init__(
            "environment",
            config.resources.verifiers.workers,
            make,
            restarts,
            to_start=setup.to_start,
            # An episode that is played again takes a call for each of its turns.
            to_answer=config.timeouts.score
            + self.settings.turn_timeout * (self.settings.max_turns + 1),
        )

    def playing(self) -> "Playing":
        """Return an object that plays the episodes of a batch."""
        self._batches += 1
        self.seconds = []
        return Playing(self, self._batches)

    def seed_of(self, prompt_id: int) -> int:
        """Return the seed of all episodes of a prompt, from 0 to 2^31 - 1."""
        text = f"{self._seed}/environment:{prompt_id}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "little") >> 1

    def metrics(self) -> dict[str, float]:
        """Return the number of groups that failed so far because the environment did not return, and how long the calls
        of the last batch took."""
        seconds = self.seconds or [0.0]
        return {
            "environment/failed_groups": float(self._failed),
            "environment/seconds_mean": float(np.mean(seconds)),
            "environment/seconds_max": float(max(seconds)),
        }

    def judge(self, prompt: Prompt, answer: ScoredGroup | DPSError) -> None:
        """Count the outcome of a group.

        Raises:
            NonFiniteScoreError: a reward is NaN or infinite, unless recovery.on_nonfinite=skip.
        """
        if isinstance(answer, NonFiniteScoreError) and self._stop_on_nonfinite:
            raise answer
        self._failed += isinstance(answer, TurnError)
        if isinstance(answer, TurnError | DataError | ModelError):
            self._quarantine.failed(prompt.id)
        elif isinstance(answer, ScoredGroup):
            self._quarantine.succeeded([prompt.id])


class Playing:
    """The episodes of one batch. All calls of an episode go to the same actor, which holds its state."""

    def __init__(self, environments: Environments, number: int) -> None:
        self._environments = environments
        self._number = number
        self._calls = OpenCalls(environments)
        self._homes: dict[tuple[int, int], int] = {}  # by prompt id and episode, its actor

    @property
    def refs(self) -> list[Any]:
        """The Ray calls that are not answered."""
        return self._calls.refs

    def ask(self, prompt: Prompt, episode: int, responses: Sequence[str]) -> None:
        """Ask for the environment's answer to the last response, or for its first messages."""
        call = Call(prompt.id, episode, len(responses))
        count = len(self._environments.members)
        home = self._homes.setdefault((prompt.id, episode), len(self._homes) % count)
        given = (call, prompt, self._environments.seed_of(prompt.id), list(responses), self._number)
        self._calls.ask(call, lambda actor: actor.play.remote(*given), home)

    def look(self) -> list[tuple[Call, Played | EpisodeError]]:
        """Return, without waiting, the answers since the last call. Replace actors that were silent for too long.

        Raises:
            EngineError: an actor was lost too often.
            ConfigError: the environment cannot be loaded.
        """
        found = self._calls.look(0.0)
        for _, answer in found:
            if isinstance(answer, Played):
                self._environments.seconds += answer.seconds
        return found


Scorers = Verifiers | Environments


def scorers(
    config: Config | EvaluationConfig,
    restarts: RestartTracker,
    quarantine: Quarantine,
    place: Callable[[int], dict[str, Any]],
) -> Scorers:
    """Return what gives responses their rewards: environments, or verifiers with a reward function."""
    kind = Verifiers if config.environment.path is None else Environments
    return kind(config, restarts, quarantine, place)
