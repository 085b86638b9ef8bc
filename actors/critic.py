"""PPO's critic: the body of a language model, with one value in place of the output head.

    tokens ──> body ──> hidden states ──> those before a response token ──> value head ──> value of each

A value is the score that the critic expects of the response, before it has seen the token that the value is for.
"""

from typing import Any

import torch
from torch import Tensor

from dps_ray.errors import ModelError


class ValueHead(torch.nn.Linear):
    """A linear layer to one value, which computes in float32 whatever its weights are stored in. It starts at zero, so the
    first advantages are the scores themselves, and no seed decides what they are."""

    def __init__(self, hidden: int, dtype: torch.dtype) -> None:
        super().__init__(hidden, 1, dtype=dtype)
        torch.nn.init.zeros_(self.weight)
        torch.nn.init.zeros_(self.bias)

    def forward(self, states: Tensor) -> Tensor:
        """(n, hidden) -> (n,) float32."""
        weight, bias = self.weight.float(), self.bias.float()
        return torch.nn.functional.linear(states.float(), weight, bias).squeeze(-1)


class Critic(torch.nn.Module):
    """A model of values.

    Args:
        body: a transformers model that returns hidden states, on the CPU.
    """

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body
        self.head = ValueHead(body.config.get_text_config().hidden_size, body.dtype)

    def forward(
        self, input_ids: Tensor, targets: Tensor, scored: Tensor, **others: Tensor
    ) -> tuple[Tensor]:
        """Return the values of n tokens, (n,) float32, as the only result.

        Args:
            input_ids: (b, t), padded on the right; attention is causal, so no mask is needed.
            targets: (b, t), the token after each. A value does not depend on it.
            scored: (b, t) bool, true for the n targets whose values are wanted.
            others: additional inputs: images of a vision-language model, positions.
        """
        states = self.body(
            input_ids=input_ids, attention_mask=None, use_cache=False, **others
        ).last_hidden_state
        return (self.head(states[scored]),)


def load_critic(path: str, dtype: torch.dtype, freeze_vision_tower: bool) -> Critic:
    """Return a critic with the body of a model.

    Args:
        path: Hugging Face folder or name of a language model or vision-language model.
    """
    from transformers import AutoModel

    body = AutoModel.from_pretrained(path, dtype=dtype)
    if freeze_vision_tower and hasattr(body, "visual"):
        body.visual.requires_grad_(False)
    return Critic(body)


def check_critic(path: str, policy: str) -> None:
    """Check that a model can be the critic of a policy.

    Args:
        path, policy: Hugging Face folders or names.

    Raises:
        ModelError: the model reads other tokens than the policy, or does not see its images.
    """
    from transformers import AutoConfig, AutoTokenizer

    of_critic, of_policy = (AutoConfig.from_pretrained(each) for each in (path, policy))
    images = of_policy.get_text_config() is not of_policy
    if images and of_critic.model_type != of_policy.model_type:
        raise ModelError(
            f"learner.critic.path={path}: it is of type {of_critic.model_type}, and the policy, which is given images, of "
            f"type {of_policy.model_type}; name a model of that type, or leave it out"
        )
    vocabularies = [AutoTokenizer.from_pretrained(each).get_vocab() for each in (path, policy)]
    if vocabularies[0] != vocabularies[1]:
        raise ModelError(
            f"learner.critic.path={path}: its tokenizer is another than that of model.path={policy}, so the tokens that it "
            "is given would mean something else to it; name a model with the policy's tokenizer, or leave it out"
        )
