"""Verifiers: actors that turn responses into rewards with the task's or the user's function.

`Verifier` is the actor, `Verifiers` the driver's view of all of them, `Scoring` the scoring of one batch. The function
runs in a child process of the actor (`dps_ray/rewards/sandbox.py`), which is ended when a response exceeds its limits.
The actor itself may be lost too.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray

from actors.health import Quarantine
from actors.managed_actor import RestartTracker
from actors.open_calls import ActorPool, OpenCalls
from actors.process import environment, log_to
from dps_ray.beliefs.state_rules import successes
from dps_ray.beliefs.states import states_of
from dps_ray.config import Config, StateSettings, VerifierSettings
from dps_ray.config.evaluation import EvaluationConfig
from dps_ray.errors import ResponseError, RewardError
from dps_ray.failpoints import failpoint
from dps_ray.groups import Group, ScoredGroup, Scores, joined
from dps_ray.prompts.dataset import Prompt
from dps_ray.rewards.functions import NonFiniteRewardError
from dps_ray.rewards.sandbox import Sandbox

Answer = ScoredGroup | RewardError

# Seconds between looks at deadlines.
_LOOK_UP = 0.5


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
        failpoint("verifier.score", verifier=self._index, responses=len(texts))
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


class Verifiers(ActorPool):
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
        self.rule = config.states if isinstance(config, Config) else StateSettings()
        self._stop_on_nonfinite = config.recovery.on_nonfinite == "stop"
        self._quarantine = quarantine
        self._failed = 0
        self._batches = 0
        self.left_behind = (
            0  # groups of the last batch that were not scored when its last group came
        )

        def make(index: int) -> Any:
            options = Verifier.options(  # type: ignore[attr-defined]
                **place(index),
                runtime_env=environment(threads=1),
            )
            return options.remote(setup, index)

        super().__init__(
            "verifier",
            config.resources.verifiers.workers,
            make,
            restarts,
            to_start=setup.to_start,
            to_answer=setup.to_score,
        )

    def scoring(self) -> "Scoring":
        """Return an object that scores a batch, round by round."""
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
    """The scoring of one batch: each round of a group goes at once to the verifier that has fewest to score.

    When the reward function failed on one of a group's responses, the result has an error in the place of the group:
    a failure is not a wrong answer. When the function did not even return (ResponseError), that is a failure of the
    prompt in the quarantine; a scored group is a success.

    A verifier that dies, or gives no answer for `timeouts.score` seconds, is replaced and asked again.
    """

    def __init__(self, verifiers: Verifiers, number: int) -> None:
        self._verifiers = verifiers
        self._number = number
        self._work: list[tuple[Prompt, Group]] = []
        self._places: dict[int, list[int]] = {}  # in `_work`, of the rounds of each prompt
        self._scored: dict[int, Scores | RewardError] = {}  # by place in `_work`
        self._new: list[int] = []  # prompts with a round scored since the last call to `ready`
        self._calls = OpenCalls(verifiers)

    def add(self, prompt: Prompt, group: Group) -> None:
        """Begin to score a group, or the next round of one. The rounds of a prompt come in their order."""
        self._take(self._calls.answered())
        place, texts = len(self._work), [response.text for response in group.responses]
        self._work.append((prompt, group))
        self._places.setdefault(prompt.id, []).append(place)
        self._calls.ask(place, lambda actor: actor.score.remote(prompt, texts, self._number))

    @property
    def prompts(self) -> list[int]:
        """Ids of the prompts, in the order in which their groups were added."""
        return list(self._places)

    @property
    def waiting(self) -> int:
        """Number of groups and rounds that are not scored yet."""
        return len(self._work) - len(self._scored)

    @property
    def calls(self) -> list[Any]:
        """The Ray calls that verifiers have not answered."""
        return self._calls.refs

    def ready(self) -> list[tuple[int, Answer]]:
        """Return, without waiting, the prompts with a round that was scored since the last call, each with its group so
        far, or the error."""
        self._take(self._calls.look(0.0))
        new, self._new = self._new, []
        return [(prompt_id, self._answer(prompt_id)) for prompt_id in new]

    def result(self) -> list[Answer]:
        """Wait for all groups, and return each scored, or its error, in the order in which they were added.

        Raises:
            EngineError: a verifier was lost too often.
            RewardError: the reward function cannot be loaded.
            NonFiniteRewardError: a reward is NaN or infinite, unless recovery.on_nonfinite=skip.
        """
        self._take(self._calls.answered())
        self._verifiers.left_behind = self.waiting
        while self.waiting:
            self._take(self._calls.look(_LOOK_UP))
        answers = [self._answer(prompt_id) for prompt_id in self._places]
        for places, each in zip(self._places.values(), answers, strict=True):
            self._verifiers.judge(self._work[places[0]][0], each)
        return answers

    def _take(self, answers: list[tuple[int, Scores | RewardError]]) -> None:
        for place, found in answers:
            self._scored[place] = found
            self._new.append(self._work[place][0].id)

    def _answer(self, prompt_id: int) -> Answer:
        """The group of a prompt with all its rounds, or the first error in one of them."""
        rounds = [self._work[place][1] for place in self._places[prompt_id]]
        scored: list[Scores] = []
        for place in self._places[prompt_id]:
            found = self._scored[place]
            if isinstance(found, RewardError):
                return found
            scored.append(found)
        all_ = Scores(*(np.concatenate(column) for column in zip(*scored, strict=True)))
        return scored_group(joined(rounds), all_, self._verifiers.rule)


def scored_group(group: Group, scores: Scores, rule: StateSettings) -> ScoredGroup:
    """Return the group with its rewards and its solve state."""
    right = successes(*scores, rule)
    state = int(states_of(np.array(right), np.array(len(scores.scores))))
    return ScoredGroup(group, *scores, right, state)
