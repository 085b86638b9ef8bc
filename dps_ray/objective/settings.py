"""Settings of the loss: `objective.*`."""

from typing import Annotated, Literal

from pydantic import Field

from dps_ray.setting_types import Settings


class ObjectiveSettings(Settings):
    name: Literal[
        "grpo",
        "dr_grpo",
        "rloo",
        "reinforce_plus_plus",
        "reinforce_plus_plus_baseline",
        "gspo",
        "cispo",
        "ppo",
    ] = "grpo"
    """The objective, by its published name."""
    clip_low: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    """Lower clip: ratios of the policy to the policy before the batch are clipped at 1 - clip_low."""
    clip_high: Annotated[float, Field(ge=0.0)] = 0.28
    """Upper clip: ratios of the policy to the policy before the batch are clipped at 1 + clip_high (DAPO's clip-higher)."""
    dual_clip: Annotated[float, Field(gt=1.0)] = 10.0
    """Dual clip: upper bound on the loss of a token with negative advantage, in multiples of the advantage."""
    importance_cap: Annotated[float, Field(gt=0.0)] | None = 2.0
    """Truncated importance weight: the loss of a token is multiplied by the ratio of the learner's probability before the
    batch to the engine's, but at most by this. It corrects for older weights (`loop.max_staleness`) and for the engine's
    arithmetic. null: no weight; the clipped ratio is to the engine's probabilities, which saves a forward pass for all
    minibatches but the first."""
    norm_by_std: bool = True
    """Divide advantages by the standard deviation of the group, as GRPO does. false: as Dr. GRPO."""
    baseline: Literal["group", "belief"] = "group"
    """What a response is compared with. group: the mean score of its group. belief: the predicted solve rate of its prompt,
    updated by the other responses of the group. Groups with equal scores then train too, if they are a surprise. A
    prompt without a prediction is compared with its group."""
    train_on: Literal["varying", "partial"] = "varying"
    """Groups that train. varying: all with advantages, which includes groups of wrong responses with different scores, such
    as a bonus for the format. partial: partial groups only (`states.rule`)."""
    aggregation: Literal["token-mean", "sequence-mean"] = "token-mean"
    """token-mean: every token has the same weight in the loss. sequence-mean: every response has."""
    normalize_by: Literal["useful_groups", "batch_size"] = "useful_groups"
    """What the loss is a mean over. useful_groups: the groups with nonzero advantages (DAPO with `loop.filter_groups`).
    batch_size: `loop.batch_size` groups, where the others add nothing (GRPO without a filter); a batch with fewer useful
    groups then has a smaller gradient. If groups have several sizes, their responses are counted."""
    kl_coef: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the KL divergence from the start policy (k3 estimator). 0: no reference model is loaded."""
    entropy_coef: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of an entropy bonus."""
