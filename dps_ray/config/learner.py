"""Settings of the policy and of its training: `model.*` and `learner.*`."""

from typing import Annotated, Literal

from pydantic import Field

from dps_ray.setting_types import HOME, TEMPLATE, Count, Natural, Settings


class ModelSettings(Settings):
    path: Annotated[str, HOME] = "builtin:start-policy"
    """Hugging Face folder of the policy, or `builtin:start-policy` (made once, then cached)."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of rollout and training. On a CPU float32 is the faster one."""
    chat_template: Annotated[str | None, TEMPLATE] = None
    """Jinja chat template, or a file with one, for a tokenizer that has none. Nothing is added to the text that
    it writes: a template for a model whose texts begin with a bos token begins with `{{ bos_token }}`."""


class LoraSettings(Settings):
    """Low-rank adapters: a linear layer computes with W + (alpha / rank) B A, and only A and B are trained."""

    rank: Count = 16
    """Rows of A and columns of B: the larger, the more an adapter can express, and the more memory it takes."""
    alpha: Annotated[float, Field(gt=0.0)] = 32.0
    """Adapters are multiplied by alpha / rank."""
    target_modules: Annotated[list[str] | Literal["all-linear"], Field(min_length=1)] = "all-linear"
    """Linear layers that get an adapter, by the ends of their names, such as [q_proj, v_proj]. all-linear: all but the
    output head, which never has one."""

    def __str__(self) -> str:
        """As it is written in an override."""
        inner = self.model_dump(mode="json").items()
        return "{" + ", ".join(f"{key}: {value}".replace("'", "") for key, value in inner) + "}"


class LearnerSettings(Settings):
    lr: Annotated[float, Field(gt=0.0)] = 1e-6
    """Learning rate of AdamW."""
    warmup_steps: Natural = 0
    """Optimizer steps over which the learning rate rises linearly from 0."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Of AdamW."""
    betas: tuple[
        Annotated[float, Field(ge=0.0, lt=1.0)], Annotated[float, Field(ge=0.0, lt=1.0)]
    ] = (0.9, 0.95)
    """Of AdamW."""
    clip_norm: Annotated[float, Field(gt=0.0)] = 1.0
    """Gradient clipping, by global norm."""
    minibatches: Count = 2
    """Optimizer steps made of each batch."""
    epochs: Count = 1
    """Passes over each batch."""
    max_tokens_per_micro_batch: Count = 16_384
    """Tokens of a forward pass at the most, padding included: bounds memory, changes no result."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2
    """DeepSpeed ZeRO stage, what the ranks share: 1 the optimizer's state, 2 gradients too, 3 weights too."""
    gradient_checkpointing: bool | None = None
    """Recompute activations in the backward pass: 4 GB in place of 52 for 15,360 tokens at 1.5B, for a third more
    time. null: on GPUs."""
    lora: LoraSettings | None = None
    """Train low-rank adapters (LoRA) in place of all weights: `learner.lora={}` with the defaults, or
    `learner.lora={rank: 8, target_modules: [q_proj, v_proj]}`. Takes about ten times the learning rate of full
    training. null: train all weights."""
    freeze_vision_tower: bool = False
    """Of a vision-language model, train the language model alone."""
    threads: Count = 1
    """On a CPU: threads a rank computes with."""
