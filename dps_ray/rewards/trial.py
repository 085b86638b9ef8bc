"""Whether a reward function can work, found out by calling it before anything heavy starts."""

from collections.abc import Callable, Iterable
from types import TracebackType

from dps_ray.errors import ResponseError, RewardError
from dps_ray.prompts.dataset import Prompt
from dps_ray.rewards.functions import TextError, bare_truth, load_reward, score_response, trial_text
from dps_ray.rewards.sandbox import Sandbox, TrialError
from dps_ray.rewards.settings import VerifierSettings

TRIALS = 8  # prompts to offer: enough to tell what is wrong with a function from what is wrong with a row


class RewardTrial:
    """Loads a reward function, and tries it on prompts. A user's runs in a sandbox, with the limits of a run.

    Args:
        reward: as `dps_ray.rewards.functions.load_reward` takes it.
        limits, start: as a `Sandbox` takes them.
        tell: given a sentence when a function failed in a way that proves nothing.

    Raises:
        RewardError: the function cannot be loaded.
    """

    def __init__(
        self,
        reward: str | None,
        limits: VerifierSettings,
        start: float,
        tell: Callable[[str], None],
    ) -> None:
        self._tell = tell
        self._sandbox = None if reward is None else Sandbox(reward, limits, start)
        if self._sandbox is not None:
            self._sandbox.start()

    def __enter__(self) -> "RewardTrial":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._sandbox is not None:
            self._sandbox.close()

    def check(self, prompts: Iterable[Prompt]) -> None:
        """Find out whether the function can score responses to some of these prompts.

        A response with the ground truth in the usual formats is scored, and the bare ground truth if that fails;
        then the same for the next prompt. It works as soon as a response is scored, which is nearly always the
        first. It cannot work when

        - it does not return on a response, or not within the limits: that is an error at once;
        - it scored none, and no failure may be due to the text. A value that is no score, a module that is
          missing, a KeyError in `extra_info` say enough. A ValueError does not: a function for responses in JSON
          may raise it on any other text. If there was such a failure (`TextError`), that is told, and left to the
          run. The built-in tasks never raise because of a text.

        Raises:
            RewardError: it cannot work; names a prompt, and what to return.
        """
        failures: list[RewardError] = []
        for prompt in prompts:
            for text in (trial_text(prompt), bare_truth(prompt)):
                try:
                    self._score(prompt, text)
                    return
                except (ResponseError, TrialError):
                    raise
                except RewardError as error:
                    failures.append(error)
        if not failures:
            return
        said = f"none of {len(failures)} trial responses, made of ground truths, was scored"
        doubt = next((error for error in failures if isinstance(error, TextError)), None)
        if doubt is None or self._sandbox is None:
            raise RewardError(f"{said}: {failures[0]}") from failures[0]
        self._tell(f"{said}, which may be due to their texts: {doubt}")

    def _score(self, prompt: Prompt, text: str) -> None:
        if self._sandbox is None:
            score_response(load_reward(None), prompt, text)
        else:
            self._sandbox.score(prompt, [text])
