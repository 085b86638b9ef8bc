"""Settings of the policy and of its training: `model.*` and `learner.*`."""

from typing import Annotated, Literal

from pydantic import Field

from dps_ray.setting_types import HOME, TEMPLATE, Count, Natural, NullableSettings, Settings


class ModelSettings(Settings):
    path: Annotated[str, HOME] = "builtin:start-policy"
    """Hugging Face folder of the policy, or a built-in start policy (made once, then cached): `builtin:start-policy`;
    for the built-in environments `builtin:calculator-policy`, `builtin:guess-the-number-policy`."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of rollout and training. On a CPU, float32 is faster."""
    chat_template: Annotated[str | None, TEMPLATE] = None
    """Jinja chat template, or a file with one, for a tokenizer that has none. The text that it renders is tokenized as it
    is: if the model expects a bos token, begin the template with `{{ bos_token }}`."""


class LoraSettings(NullableSettings):
    """Low-rank adapters: a linear layer uses W + (alpha / rank) B A in place of W, and only A and B are trained."""

    rank: Count = 16
    """Rank of the adapters: rows of A, columns of B. Larger adapters can express more and need more memory."""
    alpha: Annotated[float, Field(gt=0.0)] = 32.0
    """Scale of the adapters: B A is multiplied by alpha / rank."""
    target_modules: Annotated[list[str] | Literal["all-linear"], Field(min_length=1)] = "all-linear"
    """Linear layers with an adapter, by the ends of their names, such as [q_proj, v_proj]. all-linear: all but the output
    head, which never has one."""


class CriticSettings(Settings):
    """PPO's critic: a model that predicts the score of a response at each of its tokens."""

    path: Annotated[str | None, HOME] = None
    """Hugging Face folder or name of the model that the critic starts as, with the policy's tokenizer. null: `model.path`.
    Its output head is replaced by one value, which starts at 0."""
    lr: Annotated[float, Field(gt=0.0)] = 1e-5
    """Learning rate of the critic's AdamW (verl: 1e-5). Betas, weight decay and clipping of gradients are the policy's."""
    warmup_steps: Natural = 0
    """First steps of the run that train the critic alone, while the policy stays as it is (verl's `trainer.critic_warmup`).
    The critic's learning rate has no warm-up."""
    epochs: Count | None = None
    """Passes of the critic over each batch. null: `learner.epochs`."""
    minibatches: Count | None = None
    """Optimizer steps of the critic in each pass. null: `learner.minibatches`."""
    clip: Annotated[float, Field(gt=0.0)] = 0.5
    """Clip of the value loss: a batch is not to move a value further than this, in units of the score (verl's
    `critic.cliprange_value`: 0.5)."""
    gamma: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    """Discount of the score for each token before the last one (verl: 1)."""
    lam: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    """Lambda of generalized advantage estimation. 1: the advantage is the score minus the value (verl). Less: less variance,
    and more trust in the critic; classical PPO has 0.95."""


class LearnerSettings(Settings):
    lr: Annotated[float, Field(gt=0.0)] = 1e-6
    """Learning rate of AdamW."""
    warmup_steps: Natural = 0
    """Optimizer steps over which the learning rate rises linearly from 0."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight decay of AdamW."""
    betas: tuple[
        Annotated[float, Field(ge=0.0, lt=1.0)], Annotated[float, Field(ge=0.0, lt=1.0)]
    ] = (0.9, 0.95)
    """The two betas of AdamW."""
    clip_norm: Annotated[float, Field(gt=0.0)] = 1.0
    """Gradients are clipped to this global norm."""
    minibatches: Count = 2
    """Optimizer steps in each pass over a batch."""
    epochs: Count = 1
    """Passes over each batch."""
    max_tokens_per_micro_batch: Count = 16_384
    """Maximum number of tokens that a rank has in a forward pass, padding included. It bounds memory and does not change
    results."""
    sequence_parallel: Count = 1
    """Number of ranks that share each sequence (DeepSpeed Ulysses), for sequences whose activations do not fit a card. N
    ranks hold 1/N of a sequence each, and a micro-batch may have N times max_tokens_per_micro_batch tokens. N must divide
    resources.learner.ranks and the model's attention heads. It does not change results. Not for vision-language models."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2
    """DeepSpeed ZeRO stage: ranks partition the optimizer state (1), gradients too (2), weights too (3). 0: nothing."""
    gradient_checkpointing: bool | None = None
    """Recompute activations in the backward pass: 4 GB instead of 52 GB for 15,360 tokens of a 1.5B model, in a third more
    time. null: on GPUs only."""
    lora: LoraSettings | None = None
    """Train low-rank adapters (LoRA) instead of all weights: `learner.lora={}` for the defaults, or
    `learner.lora={rank: 8, target_modules: [q_proj, v_proj]}`. The learning rate should be about ten times that of full
    training. null: train all weights."""
    critic: CriticSettings = CriticSettings()
    freeze_vision_tower: bool = False
    """Train only the language model of a vision-language model."""
    threads: Count = 1
    """CPU threads of a rank, when it trains on a CPU."""
