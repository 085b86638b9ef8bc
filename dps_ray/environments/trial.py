"""Whether an environment can work, found out by playing a turn of it before anything heavy starts."""

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from dps_ray.environments.process import EnvironmentProcess
from dps_ray.environments.protocol import Turn
from dps_ray.environments.settings import EnvironmentSettings
from dps_ray.errors import ConfigError, EpisodeError, TurnError
from dps_ray.prompts.dataset import Prompt
from dps_ray.rewards.functions import trial_text

Messages = list[dict[str, Any]]


class EnvironmentTrial:
    """Loads an environment in a process of its own, and tries it on prompts.

    Args:
        start: seconds in which it has to be loaded.

    Raises:
        ConfigError: it cannot be loaded.
    """

    def __init__(self, settings: EnvironmentSettings, start: float) -> None:
        self._process = EnvironmentProcess(settings, start)
        self._process.start()

    def __enter__(self) -> "EnvironmentTrial":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.close()

    def check(
        self, prompts: Iterable[Prompt], tokenized: Callable[[Messages, Messages | None], object]
    ) -> None:
        """Find out whether the environment can begin episodes of some of these prompts and answer responses.

        Two episodes are played: one's response has the ground truth in the usual formats, the other's is "?". An environment
        works as soon as it has answered both for a prompt, which is nearly always the first.

        Args:
            tokenized: is given the first messages of an episode and those of the answer, or None, and raises if the chat
                template cannot render them.

        Raises:
            TurnError: it did not return.
            EpisodeError: it did so for none of them; the message is the first reason.
            ConfigError: a prompt has images.
        """
        failures: list[EpisodeError] = []
        for prompt in prompts:
            if prompt.images:
                raise ConfigError(
                    f"prompt {prompt.id} has images, and environment.path is set: episodes are of text alone; use "
                    "prompts without images, or a reward function in place of the environment"
                )
            try:
                first = self._play(prompt, [])
                answers = [self._play(prompt, [text]) for text in (trial_text(prompt), "?")]
            except TurnError:
                raise
            except EpisodeError as error:
                failures.append(error)
                continue
            assert first.messages is not None, "reset gives messages"
            for answer in answers:
                tokenized(first.messages, answer.messages)
            return
        if failures:
            raise EpisodeError(
                f"none of {len(failures)} trial episodes came through their first turn: {failures[0]}"
            ) from failures[0]

    def _play(self, prompt: Prompt, responses: list[str]) -> Turn:
        return self._process.play(tuple(responses), prompt, 0, responses).turn
