"""Settings of the loss: `objective.*`."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from dps_ray.objective.published import PUBLISHED, ObjectiveName
from dps_ray.setting_types import Natural, Settings

Aggregation = Literal["token-mean", "sequence-mean", "sequence-sum"]

EVERY_GROUP_TRAINS = ("batch", "critic")
"""Baselines that give groups all alike advantages too."""


class ObjectiveSettings(Settings):
    name: ObjectiveName = "grpo"
    """The objective. It chooses the published values of the other settings of `objective`, as `docs/objectives.md` lists
    them; a setting that is given wins. The defaults that are listed here are those of grpo."""
    loss: Literal["token_ratio", "sequence_ratio", "clipped_weight"] = "token_ratio"
    """token_ratio: PPO's clipped ratio of each token. sequence_ratio: the geometric mean of a response's ratios, clipped as
    one (GSPO). clipped_weight: the logarithm of each token's probability, weighted by its ratio, which is clipped and has no
    gradient; no token is dropped (CISPO)."""
    clip_low: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    """Lower clip: ratios of the policy to the policy before the batch are clipped at 1 - clip_low. 1: no lower clip."""
    clip_high: Annotated[float, Field(ge=0.0)] = 0.28
    """Upper clip: ratios of the policy to the policy before the batch are clipped at 1 + clip_high (DAPO's clip-higher)."""
    dual_clip: Annotated[float, Field(gt=1.0)] | None = 10.0
    """Dual clip: upper bound on the loss of a token with negative advantage, in multiples of the advantage. null: none."""
    importance_cap: Annotated[float, Field(gt=0.0)] | None = 2.0
    """Truncated importance weight: the loss of a token is multiplied by the ratio of the learner's probability before the
    batch to the engine's, but at most by this. It corrects for older weights (`loop.max_staleness`) and for the engine's
    arithmetic. null: no weight; the clipped ratio is to the engine's probabilities, which saves a forward pass for all
    minibatches but the first. With `objective.loss=sequence_ratio` it is the geometric mean over the response."""
    baseline: Literal["group", "leave_one_out", "batch", "belief", "critic"] = "group"
    """What a response is compared with. group: the mean score of its group. leave_one_out: the mean of the others in its
    group. batch: the mean score of all groups of the step that train. belief: the predicted solve rate of its prompt,
    updated by the other responses of the group. Groups with equal scores then train too, if they are a surprise. A
    prompt without a prediction is compared with its group. critic: a value model (`objective.name=ppo`)."""
    scale: Literal["group", "batch", "none"] = "group"
    """What advantages are divided by. group: the standard deviation of the group's scores, as in GRPO; with
    `objective.baseline=belief` the one that was expected. batch: the root mean square of the advantages of all groups of
    the step that train, which is their standard deviation where their mean is 0, as in REINFORCE++. none: 1, as in Dr. GRPO."""
    train_on: Literal["varying", "partial"] = "varying"
    """Groups that train. varying: all with advantages, which includes groups of wrong responses with different scores, such
    as a bonus for the format, and with `objective.baseline` batch or critic all groups. partial: partial groups only
    (`states.rule`)."""
    aggregation: Aggregation = "token-mean"
    """token-mean: every token has the same weight in the loss. sequence-mean: every response has. sequence-sum: the sum over
    a response's tokens, divided by `rollout.max_response_length`, as in Dr. GRPO; the mean over responses."""
    normalize_by: Literal["useful_groups", "batch_size"] = "useful_groups"
    """What the loss is a mean over. useful_groups: the groups with nonzero advantages (DAPO with `loop.filter_groups`).
    batch_size: `loop.batch_size` groups, where the others add nothing (GRPO without a filter); a batch with fewer useful
    groups then has a smaller gradient. If groups have several sizes, their responses are counted."""
    kl_coef: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the KL divergence from the start policy, in the loss. 0: no reference model is loaded."""
    kl_estimator: Literal["k3", "k2"] = "k3"
    """How the KL divergence is estimated. k3: ratio - 1 - log ratio, as in GRPO. k2: half the squared logarithm of the ratio,
    whose gradient is that of a penalty in the reward."""
    entropy_coef: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of an entropy bonus."""
    overlong_buffer: Natural = 0
    """Tokens before `rollout.max_response_length` in which a response's score falls, in a straight line from 0 to
    `objective.overlong_penalty` less (DAPO's soft overlong punishment). Solve states and accuracies stay. 0: no penalty."""
    overlong_penalty: Annotated[float, Field(gt=0.0)] = 1.0
    """What a response of `rollout.max_response_length` tokens loses of its score, with `objective.overlong_buffer`."""
    overlong_filter: bool = False
    """Truncated responses add nothing to the loss (DAPO's overlong filtering). They count in their group's baseline."""

    @model_validator(mode="before")
    @classmethod
    def _published_values_are_the_defaults(cls, tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        if {"norm_by_std", "scale"} <= tree.keys():
            raise ValueError(
                f"objective.norm_by_std={tree['norm_by_std']} and objective.scale={tree['scale']}: the first is the "
                "earlier name of the second, true for group and false for none; leave objective.norm_by_std out"
            )
        tree = with_scale(tree)
        name = tree.get("name", "grpo")
        return {**PUBLISHED.get(name, {}), **tree} if isinstance(name, str) else tree

    @model_validator(mode="after")
    def _baseline_and_scale_go_together(self) -> Self:
        if (self.name == "ppo") != (self.baseline == "critic"):
            raise ValueError(
                f"objective.name={self.name} and objective.baseline={self.baseline}: ppo and no other objective has a "
                "critic; set objective.name=ppo and objective.baseline=critic, or neither"
            )
        if self.scale != "group" or self.baseline in ("group", "belief"):
            return self
        why, instead = {
            "batch": ("groups all alike train, whose deviation is 0", "scale=batch or scale=none"),
            "critic": ("there are advantages for each token", "scale=batch or scale=none"),
            "leave_one_out": (
                "divided by the group's deviation this is n/(n-1) times the advantage of objective.baseline=group",
                "baseline=group or scale=none",
            ),
        }[self.baseline]
        raise ValueError(
            f"objective.baseline={self.baseline} and objective.scale=group: {why}; set objective."
            f"{instead.replace(' or ', ' or objective.')}"
        )

    @model_validator(mode="after")
    def _a_clipped_weight_needs_no_dual_clip(self) -> Self:
        if self.loss == "clipped_weight" and self.dual_clip is not None:
            raise ValueError(
                f"objective.loss=clipped_weight and objective.dual_clip={self.dual_clip:g}: weights are bounded by "
                "objective.clip_high already; set objective.dual_clip=null"
            )
        return self

    @property
    def has_critic(self) -> bool:
        """Whether the learner trains a critic, from whose values it makes the advantages."""
        return self.baseline == "critic"


def with_scale(objective: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings with `scale` in place of `norm_by_std`, which earlier versions had; unchanged if both are
    there."""
    divided = objective.get("norm_by_std")
    if not isinstance(divided, bool) or "scale" in objective:
        return objective
    kept = {key: value for key, value in objective.items() if key != "norm_by_std"}
    return {**kept, "scale": "group" if divided else "none"}
