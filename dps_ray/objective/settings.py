"""Settings of the loss: `objective.*`."""

from typing import Annotated, Literal

from pydantic import Field

from dps_ray.setting_types import Settings


class ObjectiveSettings(Settings):
    clip_low: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    """The ratio of the policy to that before the batch is clipped below at 1 - clip_low,"""
    clip_high: Annotated[float, Field(ge=0.0)] = 0.28
    """and above at 1 + clip_high (DAPO's clip-higher)."""
    dual_clip: Annotated[float, Field(gt=1.0)] = 10.0
    """Bound on the loss of a negative advantage, in multiples of it."""
    importance_cap: Annotated[float, Field(gt=0.0)] | None = 2.0
    """Each token's loss is weighted by how much likelier the learner held it, before the batch's first
    update, than the engine that sampled it did, but by no more than this: it corrects for older weights
    (`loop.max_staleness`) and for the engine's arithmetic. null weighs nothing, and clips the ratio to the
    engine's own probabilities: a forward pass less for all minibatches but the first."""
    norm_by_std: bool = True
    """Divide advantages by the group's standard deviation (GRPO); false is Dr. GRPO's choice."""
    aggregation: Literal["token-mean", "sequence-mean"] = "token-mean"
    """Every token counts the same, or every response does."""
    normalize_by: Literal["useful_groups", "batch_size"] = "useful_groups"
    """The loss is a mean over the groups that carry gradient (DAPO with filter_groups), or over
    `loop.batch_size` groups, the others of which add nothing (GRPO without a filter): then a batch
    with fewer useful groups makes a smaller step, as far as Adam lets it."""
    kl_coef: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the KL (k3 estimate) to the start policy; 0 loads no reference."""
    entropy_coef: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of an entropy bonus."""
