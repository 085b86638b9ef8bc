"""Settings that selection methods share: `selector.*`. Each method declares its own in its class `Settings`."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from dps_ray.beliefs.settings import StateSettings
from dps_ray.plain_settings import Count, Limits, Natural, PlainSettings, Share
from dps_ray.plugins import load_object, spec_of


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


def _restored(spec: str, values: Mapping[str, Any]) -> SelectorSettings:
    settings: SelectorSettings = load_object(spec, "selector", "class")(**values)
    return settings
