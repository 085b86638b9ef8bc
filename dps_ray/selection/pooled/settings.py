"""Settings of `dps_pooled`: `selector.*`."""

from typing import Annotated, ClassVar, Literal

from dps_ray.plain_settings import Limits, Share
from dps_ray.selection.settings import BeliefSettings, ClusterSettings, ScoreSettings


class PooledSettings(ClusterSettings, BeliefSettings, ScoreSettings):
    """How `PooledStore` learns and draws."""

    cluster_decay: Share = 0.9
    """Weight of the past in the counts of a cluster; its fourth root in a step that tried none of its waiting
    prompts."""
    cluster_strength: Annotated[float, Limits(gt=0.0)] = 10.0
    """How many moves of its own its cluster's transitions are worth to a prompt (kappa)."""
    temperature: Annotated[float, Limits(gt=0.0)] = 0.25
    """Prompts are drawn without replacement with weight score^(1 / temperature), the score being P(partial) or what
    `score` says: small is greedy, large uniform."""
    decay: Share = 0.7
    """Weight of the past in a prompt's own transition counts (lambda), with `observation=states`."""
    observation: Literal["states", "counts"] = "counts"
    """What is learned from a group: its solve state, or how many of its responses were right; the belief is then
    over solve rates, whose moves all prompts teach together."""

    rests_by_itself: ClassVar[bool] = True
