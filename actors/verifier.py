"""Verifiers: actors that turn responses into rewards with the task's or the user's function.

`Verifier` is the actor, `Verifiers` the driver's view of all of them, `Scoring` the scoring of one batch. The function
runs in a child process of the actor (`dps_ray/rewards/sandbox.py`), which is ended when a response exceeds its limits.
The actor itself may be lost too.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray

from actors.calls import Lost, answer, outcomes, wait
from actors.health import Quarantine
from actors.managed_actor import ManagedActor, RestartTracker
from actors.process import environment, log_to
from dps_ray.beliefs.state_rules import successes
from dps_ray.beliefs.states import states_of
from dps_ray.config import Config, StateSettings, VerifierSettings
from dps_ray.config.evaluation import EvaluationConfig
from dps_ray.errors import ResponseError, RewardError
from dps_ray.failpoints import failpoint
from dps_ray.groups import Group, ScoredGroup, Scores
from dps_ray.prompts.dataset import Prompt
from dps_ray.rewards.functions import NonFiniteRewardError
from dps_ray.rewards.sandbox import Sandbox

Answer = ScoredGroup | RewardError


@dataclass(frozen=True)
class VerifierSetup:
    """The settings of a verifier."""

    reward: str | None  # the reward function, as in `data.reward`
    limits: VerifierSettings
    to_start: float  # seconds
    to_score: float  # seconds in which it has to answer
    logs: Path

    @classmethod
    def of(cls, config: Config | EvaluationConfig) -> "VerifierSetup":
        return cls(
            reward=config.data.reward,
            limits=config.verifier,
            to_start=config.resources.wait,
            to_score=config.timeouts.score,
            logs=config.folder / "logs",
        )


@ray.remote
class Verifier:
    """One verifier."""

    def __init__(self, setup: VerifierSetup, index: int):
        log_to(setup.logs, f"verifier-{index}")
        self._index = index
        self._sandbox = Sandbox(setup.reward, setup.limits, setup.to_start)
        # Half, so that a verifier whose groups fail is not mistaken for a silent one.
        self._patience = setup.to_score / 2
        self._batch = -1
        self._wasted = 0.0  # seconds spent on groups of this batch that failed

    def start(self) -> None:
        """Load the reward function.

        Raises:
            RewardError: it cannot be loaded.
        """
        failpoint("verifier.start", verifier=self._index)
        self._sandbox.start()

    def score(self, prompt: Prompt, texts: list[str], batch: int) -> Scores | RewardError:
        """Return the rewards of the responses to a prompt, or the error of a response.

        Args:
            batch: number of the batch; once failures in a batch have taken too long, the rest of it is not scored.

        Raises:
            RewardError: the reward function cannot be loaded.
        """
        failpoint("verifier.score", verifier=self._index)
        self.start()
        if batch != self._batch:
            self._batch, self._wasted = batch, 0.0
        if self._wasted > self._patience:
            return RewardError(
                f"prompt {prompt.id} was not scored, as groups that failed took {self._wasted:.0f} s before it; "
                "lower verifier.seconds, or raise timeouts.score"
            )
        began = time.monotonic()
        try:
            return Scores(*self._sandbox.score(prompt, texts))
        except RewardError as error:
            self._wasted += time.monotonic() - began
            return error


class Verifiers:
    """All verifiers, as the driver uses them.

    Args:
        place: returns, for the index of a verifier, the Ray options that say where it runs, and with what.
    """

    def __init__(
        self,
        config: Config | EvaluationConfig,
        restarts: RestartTracker,
        quarantine: Quarantine,
        place: Callable[[int], dict[str, Any]],
    ):
        setup = VerifierSetup.of(config)
        self._to_start = setup.to_start
        self.timeout = setup.to_score
        self.rule = config.states if isinstance(config, Config) else StateSettings()
        self._stop_on_nonfinite = config.recovery.on_nonfinite == "stop"
        self._quarantine = quarantine
        self._failed = 0
        self._batches = 0
        self.left_behind = (
            0  # groups of the last batch that were not scored when its last group came
        )
        self._starts: dict[int, Any] = {}  # by index, the call that loads the function

        def start(index: int) -> Callable[[int], Any]:
            options = Verifier.options(  # type: ignore[attr-defined]
                **place(index),
                runtime_env=environment(threads=1),
            )

            def make(incarnation: int) -> Any:
                actor = options.remote(setup, index)
                self._starts[index] = actor.start.remote()
                return actor

            return make

        self.members = [
            ManagedActor("verifier", index, start(index), restarts)
            for index in range(config.resources.verifiers.workers)
        ]

    def wait_until_started(self, indices: Iterable[int]) -> None:
        """Wait until these have loaded the reward function, or have failed to."""
        outcomes([self._starts[index] for index in indices], self._to_start)

    def stop(self) -> None:
        """End every verifier."""
        for member in self.members:
            member.kill()

    def scoring(self) -> "Scoring":
        """Return an object that scores a batch, group by group."""
        self._batches += 1
        return Scoring(self, self._batches)

    def metrics(self) -> dict[str, float]:
        """Return `verifier/failed_responses`, the number of responses on which the reward function did not return so
        far, and `queue/score`, the groups of the last batch that were not scored when its last group came."""
        return {
            "verifier/failed_responses": float(self._failed),
            "queue/score": float(self.left_behind),
        }

    def judge(self, prompt: Prompt, answer: Answer) -> None:
        """Count the outcome of a group.

        Raises:
            NonFiniteRewardError: a reward is NaN or infinite, unless recovery.on_nonfinite=skip.
        """
        if isinstance(answer, NonFiniteRewardError) and self._stop_on_nonfinite:
            raise answer
        if isinstance(answer, ResponseError):
            self._failed += 1
            self._quarantine.failed(prompt.id)
        elif isinstance(answer, ScoredGroup):
            self._quarantine.succeeded([prompt.id])


class Scoring:
    """The scoring of one batch: each group goes at once to the verifier that has fewest groups to score.

    When the reward function failed on one of a group's responses, the result has an error in the place of the group:
    a failure is not a wrong answer. When the function did not even return (ResponseError), that is a failure of the
    prompt in the quarantine; a scored group is a success.

    A verifier that dies, or gives no answer for `timeouts.score` seconds, is replaced and asked again.
    """

    def __init__(self, verifiers: Verifiers, number: int) -> None:
        self._verifiers = verifiers
        self._number = number
        self._work: list[tuple[Prompt, Group]] = []
        self._answers: dict[int, Answer] = {}  # by place in `_work`
        # By index of the verifier, the calls that it has not answered, with the place of the group in `_work`.
        self._asked: list[dict[Any, int]] = [{} for _ in verifiers.members]

    def add(self, prompt: Prompt, group: Group) -> None:
        """Begin to score a group."""
        self._collect()
        self._work.append((prompt, group))
        index = min(range(len(self._asked)), key=lambda i: len(self._asked[i]))
        self._ask(index, len(self._work) - 1)

    @property
    def prompts(self) -> list[int]:
        """Ids of the prompts, in the order in which their groups were added."""
        return [prompt.id for prompt, _ in self._work]

    @property
    def waiting(self) -> int:
        """Number of groups that are not scored yet."""
        return len(self._work) - len(self._answers)

    def result(self) -> list[Answer]:
        """Wait for all groups, and return each scored, or its error, in the order in which they were added.

        Raises:
            EngineError: a verifier was lost too often.
            RewardError: the reward function cannot be loaded.
            NonFiniteRewardError: a reward is NaN or infinite, unless recovery.on_nonfinite=skip.
        """
        self._collect()
        self._verifiers.left_behind = self.waiting
        while self.waiting:
            self._verifiers.wait_until_started(i for i, asked in enumerate(self._asked) if asked)
            if not self._collect(self._verifiers.timeout):
                why = f"did not answer within {self._verifiers.timeout:.0f} s"
                for index, asked in enumerate(self._asked):
                    if asked:
                        self._replace(index, why)
        answers = [self._answers[place] for place in range(len(self._work))]
        for (prompt, _), each in zip(self._work, answers, strict=True):
            self._verifiers.judge(prompt, each)
        return answers

    def _collect(self, timeout: float = 0.0) -> bool:
        """Process the answers, waiting at most `timeout` seconds for one, and return whether there was any."""
        calls = [call for asked in self._asked for call in asked]
        number = 1 if timeout else len(calls)
        done = set(wait(calls, number, timeout)[0]) if calls else set()
        for index, asked in enumerate(self._asked):
            for call in [call for call in asked if call in done]:
                found = answer(call)
                if isinstance(found, Lost):
                    self._replace(index, found.why)
                    break
                self._take(asked.pop(call), found)
                self._verifiers.members[index].record_success()
        return bool(done)

    def _take(self, place: int, found: Scores | RewardError) -> None:
        group = self._work[place][1]
        if isinstance(found, Scores):
            right = successes(*found, self._verifiers.rule)
            state = int(states_of(np.array(right), np.array(len(found.scores))))
            self._answers[place] = ScoredGroup(group, *found, right, state)
        else:
            self._answers[place] = found

    def _ask(self, index: int, place: int) -> None:
        prompt, group = self._work[place]
        texts = [response.text for response in group.responses]
        call = self._verifiers.members[index].actor.score.remote(prompt, texts, self._number)
        self._asked[index][call] = place

    def _replace(self, index: int, why: str) -> None:
        """Replace a verifier, and ask its successor for all groups that it had not answered."""
        self._verifiers.members[index].replace(why)
        places, self._asked[index] = list(self._asked[index].values()), {}
        for place in places:
            self._ask(index, place)
