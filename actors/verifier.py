"""Verifiers: actors that turn responses into rewards with the task's or the user's function.

`Verifier` is the actor, `Verifiers` the driver's view of all of them. The function runs in a process below the
actor (`dps_ray/sandbox.py`), which ends when a response is too much for it; the actor itself may be lost too.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import ray

from actors.calls import Lost, outcomes
from actors.member import Member, Recoveries
from actors.process import environment, log_to
from dps_ray.config import Config
from dps_ray.errors import RewardError
from dps_ray.failpoints import failpoint
from dps_ray.groups import Group, ScoredGroup
from dps_ray.health import Quarantine
from dps_ray.prompts import Prompt
from dps_ray.rewards import NonFiniteRewardError
from dps_ray.sandbox import ResponseError, Sandbox
from dps_ray.states import solve_states

Answer = ScoredGroup | RewardError


@ray.remote
class Verifier:
    def __init__(self, config: Config, index: int):
        log_to(config.folder / "logs", f"verifier-{index}")
        self._index = index
        self._sandbox = Sandbox(config.data.reward, config.verifier, config.resources.wait)
        # Half, so that failures do not make a verifier that works look like one that is silent.
        self._patience = config.timeouts.score / 2

    def start(self) -> None:
        """Load the reward function.

        Raises:
            RewardError: it cannot be loaded.
        """
        self._sandbox.start()

    def score(self, groups: list[tuple[Prompt, Group]]) -> list[Answer]:
        """A scored group, or what was wrong with its rewards, for each group in their order.

        Raises:
            RewardError: the reward function cannot be loaded.
        """
        failpoint("verifier.score", verifier=self._index)
        self.start()
        answers: list[Answer] = []
        wasted = 0.0
        for prompt, group in groups:
            began = time.monotonic()
            answers.append(self._score(prompt, group, wasted))
            if isinstance(answers[-1], RewardError):
                wasted += time.monotonic() - began
        return answers

    def _score(self, prompt: Prompt, group: Group, wasted: float) -> Answer:
        if wasted > self._patience:
            return RewardError(
                f"prompt {prompt.id} was not scored, as groups that failed took {wasted:.0f} s before it; "
                "lower verifier.seconds, or raise timeouts.score"
            )
        try:
            texts = [response.text for response in group.responses]
            scores, accuracies = self._sandbox.score(prompt, texts)
        except RewardError as error:
            return error
        return ScoredGroup(group, scores, accuracies, int(solve_states([accuracies])[0]))


class Verifiers:
    """All verifiers, as the driver uses them.

    Args:
        place: of a verifier's index, the options that say where it runs, and with what.
    """

    def __init__(
        self,
        config: Config,
        recoveries: Recoveries,
        quarantine: Quarantine,
        place: Callable[[int], dict[str, Any]],
    ):
        self._timeouts = config.resources.wait, config.timeouts.score  # to start, to score
        self._stop_on_nonfinite = config.recovery.on_nonfinite == "stop"
        self._quarantine = quarantine
        self._failed = 0
        self._starts: dict[int, Any] = {}  # by index, the call that loads the function

        def start(index: int) -> Callable[[int], Any]:
            options = Verifier.options(  # type: ignore[attr-defined]
                **place(index),
                runtime_env=environment(threads=1),
            )

            def make(incarnation: int) -> Any:
                actor = options.remote(config, index)
                self._starts[index] = actor.start.remote()
                return actor

            return make

        self.members = [
            Member("verifier", index, start(index), recoveries)
            for index in range(config.resources.verifiers.workers)
        ]

    def score(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[Answer]:
        """Score each group against its prompt, in their order.

        A group yields the error in its place when the reward function failed on one of its responses: it is
        no wrong answer. When the function did not even return (ResponseError) that counts towards the
        prompt's quarantine; a prompt that is scored got through engine and verifier.

        A verifier that dies, or gives no answer within `timeouts.score` seconds of its start, is replaced
        and its groups are sent again.

        Raises:
            EngineError: a verifier was lost too often.
            RewardError: the reward function cannot be loaded.
            NonFiniteRewardError: a reward is NaN or infinite, unless recovery.on_nonfinite=skip.
        """
        answers = self._answers(list(zip(prompts, groups, strict=True)))
        for prompt, answer in zip(prompts, answers, strict=True):
            if isinstance(answer, NonFiniteRewardError) and self._stop_on_nonfinite:
                raise answer
            if isinstance(answer, ResponseError):
                self._failed += 1
                self._quarantine.failed(prompt.id)
            elif isinstance(answer, ScoredGroup):
                self._quarantine.succeeded([prompt.id])
        return answers

    def metrics(self) -> dict[str, float]:
        """`verifier/failed_responses`: on how many the reward function did not return, so far."""
        return {"verifier/failed_responses": float(self._failed)}

    def _answers(self, work: list[tuple[Prompt, Group]]) -> list[Answer]:
        count = len(self.members)
        answers: list[Answer] = [RewardError()] * len(work)
        waiting = self.members[: len(work)]
        start, score = self._timeouts
        while waiting:
            outcomes([self._starts[member.index] for member in waiting], start)
            calls = [member.actor.score.remote(work[member.index :: count]) for member in waiting]
            lost = []
            for member, answer in zip(waiting, outcomes(calls, score), strict=True):
                if isinstance(answer, Lost):
                    member.replace(answer.why)
                    lost.append(member)
                else:
                    answers[member.index :: count] = answer
                    member.well()
            waiting = lost
        return answers
