"""The trial of a reward function or an environment on the prompts of a run, before anything heavy starts."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any

from dps_ray.config import Config
from dps_ray.config.evaluation import EvaluationConfig
from dps_ray.environments.trial import EnvironmentTrial
from dps_ray.rewards.trial import TRIALS, RewardTrial
from pipelines.rollout.pool import PromptPool


class Trial(AbstractContextManager["Trial"]):
    """What gives a run its rewards, loaded by the constructor and tried by `check`; see `trial_of`."""

    def __init__(self, trial: RewardTrial | EnvironmentTrial) -> None:
        self._trial = trial
        self._ends = ExitStack()
        self._ends.enter_context(trial)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ends.close()

    def check(self, pool: PromptPool) -> None:
        """Find out whether it works on some of these prompts, and whether the model can read what an environment says.

        Raises:
            RewardError: the reward function cannot work.
            EpisodeError: the environment cannot work.
            ModelError: the chat template cannot render the environment's messages.
            ConfigError: there is an environment, and a prompt has images.
        """
        prompts, encoder = pool.samples(TRIALS), pool.encoder

        def tokenized(first: list[dict[str, Any]], new: list[dict[str, Any]] | None) -> None:
            id_ = int(pool.ids[0])
            encoder.opening(first, id_)
            if new is not None:
                encoder.continuation(first, new, 0, id_)

        if isinstance(self._trial, EnvironmentTrial):
            self._trial.check(prompts, tokenized)
        else:
            self._trial.check(prompts)


def trial_of(config: Config | EvaluationConfig, tell: Callable[[str], None]) -> Trial:
    """Loads the reward function or the environment of a configuration, to be tried.

    Args:
        tell: given a sentence when a reward function failed in a way that proves nothing.

    Raises:
        RewardError: the reward function cannot be loaded.
        ConfigError: the environment cannot be loaded.
    """
    start = config.resources.wait
    if config.environment.path is not None:
        return Trial(EnvironmentTrial(config.environment, start))
    return Trial(RewardTrial(config.data.reward, config.verifier, start, tell))
