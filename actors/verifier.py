"""Verifiers: actors that turn responses into rewards with the task's or the user's function.

`Verifier` is the actor, `Verifiers` the driver's view of all of them.
"""

from collections.abc import Sequence

import ray

from actors.calls import collect
from actors.process import environment, log_to
from dps_ray.config import Config
from dps_ray.errors import RewardError
from dps_ray.groups import Group, ScoredGroup
from dps_ray.prompts import Prompt
from dps_ray.rewards import load_reward, score_group
from dps_ray.states import solve_states


@ray.remote
class Verifier:
    def __init__(self, config: Config, name: str):
        log_to(config.folder / "logs", name)
        self._reward = load_reward(config.data.reward)

    def score(self, groups: list[tuple[Prompt, Group]]) -> list[ScoredGroup | RewardError]:
        """A scored group, or what was wrong with its rewards, for each group in their order."""
        return [self._score(prompt, group) for prompt, group in groups]

    def _score(self, prompt: Prompt, group: Group) -> ScoredGroup | RewardError:
        try:
            texts = [response.text for response in group.responses]
            scores, accuracies = score_group(self._reward, prompt, texts)
        except RewardError as error:
            return error
        return ScoredGroup(group, scores, accuracies, int(solve_states([accuracies])[0]))


class Verifiers:
    """All verifiers, as the driver uses them."""

    def __init__(self, config: Config):
        self._timeout = config.timeouts.score
        self._actors = [
            Verifier.options(num_cpus=0, runtime_env=environment(threads=1)).remote(  # type: ignore[attr-defined]
                config, f"verifier-{index}"
            )
            for index in range(config.resources.verifiers.workers)
        ]

    def score(
        self, prompts: Sequence[Prompt], groups: Sequence[Group]
    ) -> list[ScoredGroup | RewardError]:
        """Score each group against its prompt, in their order.

        A group whose reward function raised, or returned what is no score, yields the error in
        its place: it is no wrong answer.

        Raises:
            EngineError: a verifier died, or gave no answer within `timeouts.score` seconds.
        """
        work = list(zip(prompts, groups, strict=True))
        count = len(self._actors)
        shares = [work[i::count] for i in range(count)]
        calls = [
            actor.score.remote(share) for actor, share in zip(self._actors, shares, strict=True)
        ]
        answers = collect(calls, self._timeout, "verifier", "score")
        scored: list[ScoredGroup | RewardError] = [RewardError()] * len(work)
        for index, answer in enumerate(answers):
            scored[index::count] = answer
        return scored
