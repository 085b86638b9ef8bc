"""What an environment offers, and what its calls may return.

    reset(prompt) ──> messages ──> policy ──> response ──> step(response) ──> (messages, reward) ──> policy ──> ...
                                                                         └──> (None, reward): the episode is over

A class with these two methods is an environment; it need not inherit from `Environment`. An object serves one
episode. It has to be deterministic: the same prompt, seed and responses give the same messages and rewards. An episode
whose process is lost is played again in another, with the responses that the policy has written.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from dps_ray.prompts.dataset import Prompt

Message = Mapping[str, Any]
"""A message of a conversation, with a `role`, such as "user" or "tool", and a text as `content`."""

Messages = Sequence[Message] | str
"""What the policy reads next: at least one message. A text is one message with the role "user"."""

Reward = float | Mapping[str, float]
"""The reward of a turn: its score; or `{"score": number, "acc": number from 0 to 1}`, where `acc` says how right the
episode is so far."""


class Environment(Protocol):
    """A task over several turns. Keyword arguments of the constructor come from `environment.kwargs`.

    `reset` may take a second argument `seed`, an int that follows from the run's seed and the prompt. All episodes of
    a prompt get the same seed, since GRPO compares the responses to one and the same task.

    A method `close()`, if there is one, is called when the episode is over.
    """

    def reset(self, prompt: Prompt) -> Messages:
        """Begin an episode.

        Args:
            prompt: the row of the data: `messages`, `data_source`, `ground_truth`, `extra_info`. It has no images.

        Returns:
            The messages that the policy first reads. They are the same for all episodes of a prompt and seed.
        """
        ...

    def step(self, response: str) -> tuple[Messages | None, Reward]:
        """Answer what the policy wrote in this turn.

        Args:
            response: the text of this turn, without special tokens.

        Returns:
            The messages that the policy reads next, or None when the episode is over; and the reward of the turn.
        """
        ...


class Turn(NamedTuple):
    """What an environment answered, after checks.

    messages: {role, content} each, at least one; None: the episode is over
    score:    of the turn; finite
    accuracy: how right the episode is so far, in [0, 1]; None: the environment does not say
    """

    messages: list[dict[str, Any]] | None
    score: float = 0.0
    accuracy: float | None = None


class Outcome(NamedTuple):
    """The reward of a whole episode, as a reward function would return it."""

    score: float
    accuracy: float


def outcome(turns: Sequence[Turn]) -> Outcome:
    """The reward of an episode from the answers to its responses.

    The score is the sum of the scores. The accuracy is the one that was given last; if none was given, the episode is
    right by a score of 1 or more, as with a reward function that gives no accuracy.
    """
    score = sum(turn.score for turn in turns)
    given = [turn.accuracy for turn in turns if turn.accuracy is not None]
    return Outcome(score, given[-1] if given else float(score >= 1))
