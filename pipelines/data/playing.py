"""Start policies at play: how often they solve the prompts of their task."""

import random
from collections.abc import Sequence
from typing import Any

import torch
from transformers import LlamaForCausalLM

from pipelines.data.demonstrations import TASKS, joined, prompt_of
from pipelines.data.policy_recipe import EOS, PAD, VOCABULARY
from pipelines.data.warm_start import encode

_MAX_TURNS = 8
_MAX_RESPONSE = 56  # tokens of a turn


def success_rates(
    model: LlamaForCausalLM, task: str, level: Any, prompts: int, responses: int, rng: random.Random
) -> torch.Tensor:
    """The fraction of right episodes at temperature 1 for each of some random prompts of a level: (prompts,).

    task: in `demonstrations.TASKS`.
    """
    rows = [TASKS[task].make_row(level, rng) for _ in range(prompts)]
    episodes = [_Episode(task, row) for row in rows for _ in range(responses)]
    for _ in range(_MAX_TURNS):
        playing = [episode for episode in episodes if not episode.over]
        if not playing:
            break
        sampled = _sampled(model, [episode.tokens for episode in playing])
        for episode, response in zip(playing, sampled, strict=True):
            episode.step(response)
    return torch.tensor([episode.accuracy for episode in episodes]).view(prompts, responses).mean(1)


class _Episode:
    """An episode with the tokens that the policy reads next."""

    def __init__(self, task: str, row: dict[str, Any]) -> None:
        self._environment = TASKS[task].environment()
        self.tokens = encode(joined(self._environment.reset(prompt_of(row))))
        self.accuracy = 0.0
        self.over = False

    def step(self, response: list[int]) -> None:
        messages, reward = self._environment.step("".join(_CHARACTERS[token] for token in response))
        self.accuracy = reward["acc"]
        self.over = messages is None
        self.tokens += [*response, EOS, *encode(joined(messages or []))]


_CHARACTERS = list(VOCABULARY)


@torch.no_grad()
def _sampled(model: LlamaForCausalLM, contexts: Sequence[list[int]]) -> list[list[int]]:
    """A response at temperature 1 to each context, without the end-of-sequence token."""
    longest = max(map(len, contexts))
    tokens = torch.tensor([[PAD] * (longest - len(each)) + each for each in contexts])
    sampled = model.generate(
        tokens,
        attention_mask=(tokens != PAD).long(),
        do_sample=True,
        top_k=0,
        max_new_tokens=_MAX_RESPONSE,
    )
    return [
        [token for token in row if token not in (PAD, EOS)] for row in sampled[:, longest:].tolist()
    ]
