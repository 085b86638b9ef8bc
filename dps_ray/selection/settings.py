"""Settings that selection methods share: `selector.*`. Each method declares its own in its class `Settings`."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from dps_ray.beliefs.settings import StateSettings
from dps_ray.plain_settings import HOME, Count, Limits, Natural, PlainSettings, Share
from dps_ray.plugins import load_object, spec_of
from dps_ray.selection.evidence import Evidence
from dps_ray.selection.selector import Context
from dps_ray.selection.signal import Score


class SelectorSettings(PlainSettings):
    """Limits on how soon and how often a prompt comes again, and base of the settings of every method."""

    rest: Natural | None = None
    """Steps for which a prompt is left alone once it was tried, as long as there are others. null: 0; dps_pooled: 20,
    or as many as leave half of the pool."""
    max_uses: Count | None = None
    """Uses of a prompt in a round. A round ends when every prompt of the pool had as many (dps_pooled: or had fewer,
    and none in the last 50 steps). null: no limit."""
    fresh_share: Share = 0.0
    """At least this part of a batch are prompts never tried, as long as there are any."""

    rests_by_itself: ClassVar[bool] = False
    """Whether the method applies `rest` and `max_uses` itself."""

    @property
    def learns_from_rewards(self) -> bool:
        """Whether the method learns from mean and deviation of a group's rewards."""
        return False

    def check(self, states: StateSettings) -> None:
        """Raises ValueError when the method cannot work with this rule for solve states."""

    def __reduce__(self) -> tuple[Any, ...]:
        # By a name that another process finds, which has not imported the file of a user's own class.
        return _restored, (spec_of(type(self)), dict(vars(self)))


class ClusterSettings(SelectorSettings):
    """Of a method that learns by cluster: the run hands it the clusters of the prompts."""

    cluster_column: str | None = None
    """Column by whose values prompts are of a kind, such as `ability`, `extra_info.level` for a key of extra_info, or
    `cluster` as made by `pipelines.prepare cluster`: strings or integers. null: prompts of one data_source are of a
    kind."""


class DrawSettings(SelectorSettings):
    """Of a method that takes the prompts with the best scores, or draws by them."""

    temperature: Annotated[float, Limits(gt=0.0)] | None = None
    """Prompts are drawn without replacement with weight score^(1 / temperature): small is greedy, large uniform.
    null: the best are taken."""


class ScoreSettings(SelectorSettings):
    """Of a method that chooses prompts by the gradient that it expects of their groups."""

    score: Literal["objective", "partial", "variance", "batch", "surprise"] = "partial"
    """What a prompt is chosen for: the expected squared advantage of its group (docs/method.md). partial: P(partial), where
    advantages are divided by the group's deviation, as in GRPO. variance: E[p (1 - p)] of its solve rate p, where they are
    rewards less the group's mean (RLOO, Dr. GRPO). batch: against the mean of the batch (REINFORCE++). surprise: against a
    critic that knows as much as the belief (PPO). objective: the one of these that belongs to
    `objective.baseline` and `objective.scale`. All but partial are for `states.rule=right`; with other rules objective means
    partial."""

    def scored_by(self, context: Context) -> Score:
        """Returns the score of a selector that is made for this run."""
        if self.score != "objective":
            return self.score
        return context.score if context.states.rule == "right" else "partial"

    def check(self, states: StateSettings) -> None:
        super().check(states)
        if self.score not in ("objective", "partial") and states.rule != "right":
            raise ValueError(
                f"selector.score={self.score} is for right and wrong responses, and states.rule={states.rule}; set "
                "selector.score=partial or states.rule=right"
            )


class StartSettings(SelectorSettings):
    """Of a method that can use what is known of the prompts before the run."""

    start: Annotated[str | None, HOME] = None
    """What is known before the first step: `results.json` of `pipelines.evaluate`, its folder, or a file in its
    `prompts/`; or the folder of an earlier run. Prompts are matched by content. It is read once; checkpoints keep
    it. null: nothing is known."""

    @property
    def charges_start(self) -> bool:
        """Whether the responses in `start` count as rollouts of the run."""
        return False

    def kept(self, evidence: Evidence) -> NDArray[np.int64] | None:
        """Returns the ids of the prompts that may be selected, ascending; None: all."""
        return None


class BeliefSettings(StartSettings):
    """Of a method whose beliefs can begin with evidence: its selectors have `begin`."""

    start_weight: Annotated[float, Limits(gt=0.0, le=1.0)] = 0.5
    """How much of its belief after `selector.start` a method begins with: 1 as if this run had observed it, near 0 almost
    nothing. The default halves it, because the policy changes with the first steps: then a prompt's first group in this run
    counts twice as much."""
    start_charged: bool = False
    """Count the responses in `selector.start` as rollouts of this run. For an evaluation that was made for the run, so that
    comparisons are fair."""

    @property
    def charges_start(self) -> bool:
        return self.start_charged


def _restored(spec: str, values: Mapping[str, Any]) -> SelectorSettings:
    settings: SelectorSettings = load_object(spec, "selector", "class")(**values)
    return settings
