"""Episodes over several turns: has an engine write, an environment answer, and an engine go on.

    reset ──> prompt ──> engine ──> response ──> step ── over, or a limit ──> the episode is done
                           ▲                      │
                           └── prompt and all tokens so far, and the environment's messages as tokens

No episode waits for another. A turn is sampled with a seed of its own (run, step, prompt, episode, turn), and an
environment depends on the prompt and the responses alone, so which actors answer, and when, changes nothing.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.environment import Call, Environments
from actors.requests import Request, Sampling
from actors.rollout import Rollouts
from actors.verifier import scored_group
from dps_ray.environments.process import Played
from dps_ray.environments.protocol import Turn, outcome
from dps_ray.environments.transcript import Transcript
from dps_ray.errors import DataError, DPSError, EngineError, EpisodeError, ModelError
from dps_ray.groups import Group, Response, ScoredGroup, Scores
from dps_ray.prompts.dataset import Prompt
from dps_ray.weights import WeightsId
from pipelines.rollout.encoding import Encoder


@dataclass
class _Episode:
    transcript: Transcript = field(default_factory=Transcript)
    said: list[str] = field(default_factory=list)  # the text of each response
    answers: list[Turn] = field(default_factory=list)  # the environment's, to each of them
    cut: bool = False  # the limit on tokens ended the last response
    response: Response | None = None  # the whole, once it is done


@dataclass
class _Group:
    prompt: Prompt
    episodes: list[_Episode]
    messages: list[dict[str, Any]] = field(default_factory=list)  # the first
    tokens: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))  # of those
    weights: list[WeightsId] = field(default_factory=list)  # that sampled its turns
    error: DPSError | None = None

    @property
    def done(self) -> bool:
        return all(episode.response is not None for episode in self.episodes)


class Turns:
    """The episodes of one batch, as `Rollouts.generate` asks for their turns.

    Args:
        prompts: the prompts; each has `sampling.responses` episodes.
        sampling: its `max_tokens` limits an episode after its first prompt.
        done: called when the episodes of a prompt are done.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        encoder: Encoder,
        environments: Environments,
        done: Callable[[], None],
    ) -> None:
        self._sampling, self._encoder, self._environments = sampling, encoder, environments
        self._done = done
        self._playing = environments.playing()
        self._groups: dict[int, _Group] = {}
        for prompt in prompts:
            episodes = [_Episode() for _ in range(sampling.responses)]
            group = self._groups[prompt.id] = _Group(prompt, episodes)
            if prompt.images:
                group.error = DataError(
                    f"prompt {prompt.id} has images, which environments do not take"
                )
            else:
                # All episodes of a prompt begin alike, so the first messages of one are those of all.
                self._playing.ask(prompt, 0, [])

    def generated(self, answered: Group) -> None:
        """Note a turn that an engine generated, and ask the environment."""
        group = self._groups[answered.prompt_id]
        (response,) = answered.responses
        episode = group.episodes[answered.first]
        episode.transcript = episode.transcript.wrote(response)
        episode.said.append(response.text)
        episode.cut = response.truncated
        group.weights.append(answered.weights)
        if group.error is None:
            self._playing.ask(group.prompt, answered.first, episode.said)

    def calls(self) -> list[Any]:
        return self._playing.refs

    def take(self) -> list[Request]:
        due: list[Request] = []
        for call, found in self._playing.look():
            group = self._groups[call.prompt_id]
            if group.error is not None:
                continue
            try:
                due += self._after(group, call, found)
            except (DataError, ModelError) as error:  # of the messages
                group.error = error
        return due

    def responses(self) -> int:
        """Return how many episodes engines have begun."""
        return sum(
            e.transcript.turns > 0 for group in self._groups.values() for e in group.episodes
        )

    def answers(self) -> list[ScoredGroup | DPSError]:
        """Return the scored group of each prompt, or the error, once there is nothing to wait for.

        Raises:
            NonFiniteScoreError: a reward is NaN or infinite, unless recovery.on_nonfinite=skip.
        """
        found = [self._answer(group) for group in self._groups.values()]
        for group, each in zip(self._groups.values(), found, strict=True):
            self._environments.judge(group.prompt, each)
        return found

    def _after(self, group: _Group, call: Call, found: Played | EpisodeError) -> Sequence[Request]:
        """What an answer of the environment makes due."""
        if isinstance(found, EpisodeError):
            group.error = found
            return ()
        if call.responses == 0:
            return self._begin(group, found.turn)
        return self._go_on(group, call.episode, found.turn)

    def _begin(self, group: _Group, turn: Turn) -> list[Request]:
        assert turn.messages is not None, "reset gives messages"
        group.messages = turn.messages
        group.tokens = self._encoder.opening(turn.messages, group.prompt.id)
        limit = self._environments.max_prompt_length
        if len(group.tokens) > limit:
            raise DataError(
                f"the first messages of the environment for prompt {group.prompt.id} have {len(group.tokens)} "
                f"tokens, and data.max_prompt_length={limit}: raise it, or shorten the messages"
            )
        return [self._request(group, index) for index in range(len(group.episodes))]

    def _go_on(self, group: _Group, index: int, turn: Turn) -> list[Request]:
        episode = group.episodes[index]
        episode.answers.append(turn)
        further = self._further(group, episode, turn)
        if further is not None:
            episode.transcript = further
            return [self._request(group, index)]
        over = turn.messages is None
        episode.response = episode.transcript.response(truncated=episode.cut or not over)
        if group.done:
            self._done()
        return []

    def _further(self, group: _Group, episode: _Episode, turn: Turn) -> Transcript | None:
        """The episode with the environment's messages; None when it is over or has reached a limit."""
        transcript = episode.transcript
        most = self._environments.settings.max_turns
        if turn.messages is None or episode.cut or transcript.turns >= most:
            return None
        last = int(transcript.tokens[-1])
        tokens = self._encoder.continuation(group.messages, turn.messages, last, group.prompt.id)
        if len(transcript.tokens) + len(tokens) >= self._sampling.max_tokens:
            return None
        return transcript.read(tokens, [str(message["content"]) for message in turn.messages])

    def _request(self, group: _Group, index: int) -> Request:
        transcript = group.episodes[index].transcript
        return Request(
            group.prompt.id,
            np.concatenate([group.tokens, transcript.tokens]),
            first=index,
            responses=1,
            turn=transcript.turns,
            max_tokens=self._sampling.max_tokens - len(transcript.tokens),
        )

    def _answer(self, group: _Group) -> ScoredGroup | DPSError:
        if group.error is not None:
            return group.error
        responses = [e.response for e in group.episodes if e.response is not None]
        if len(responses) < len(group.episodes):
            return EngineError(
                f"prompt {group.prompt.id} was set aside: every engine that had it died"
            )
        rewards = [outcome(episode.answers) for episode in group.episodes]
        scores, accuracies = np.array(rewards, dtype=np.float64).T
        whole = Group(group.prompt.id, group.tokens, responses, min(group.weights))
        return scored_group(whole, Scores(scores, accuracies), self._environments.rule)


def roll_out_turns(
    prompts: Sequence[Prompt],
    sampling: Sampling,
    rollouts: Rollouts,
    environments: Environments,
    encoder: Encoder,
    timed: Callable[[str], AbstractContextManager[None]],
    done: Callable[[], None],
) -> tuple[list[ScoredGroup | DPSError], int]:
    """Plays `sampling.responses` episodes of each prompt. Returns the scored group of each, or the error, and the number
    of episodes that engines have begun.

    Args:
        timed: context manager for the phases "generate", which covers the environments too, and "score".
        done: called when the episodes of a prompt are done.
    """
    with timed("generate"):
        turns = Turns(prompts, sampling, encoder, environments, done)
        rollouts.generate([], replace(sampling, responses=1), turns.generated, turns)
    with timed("score"):
        return turns.answers(), turns.responses()
