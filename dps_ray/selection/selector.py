"""What every selection method offers, so that the pipeline does not know which one runs."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dps_ray.beliefs.settings import StateSettings
from dps_ray.beliefs.states import Observation
from dps_ray.selection.choice import Selection
from dps_ray.selection.clusters import Clusters
from dps_ray.selection.signal import Score


class Context(NamedTuple):
    """What a selector is told of the run that it is made for.

    seed:       decides ties and draws
    pool:       prompts over all shards; the selector holds those of one
    group_size: k, responses to a prompt
    states:     what makes a group partial
    clusters:   of each id that the selector holds; None where the method does not learn by cluster
    score:      expected squared advantage under the run's objective, for `selector.score=objective`
    """

    seed: int
    pool: int
    group_size: int
    states: StateSettings = StateSettings()
    clusters: Clusters | None = None
    score: Score = "partial"


class Selector(Protocol):
    """Chooses the next prompts and learns from what became of them.

    A class that `method` can name has, besides, a class `Settings` derived from
    `dps_ray.selection.settings.SelectorSettings`, and a classmethod `make(ids, settings, context)` that returns the
    selector of the shard with these ids, int64 (n,). See docs/extending.md.

    Choosing changes nothing: until something is observed, the same call gives the same prompts. A prompt
    whose rollout failed is simply not observed, and will come again.
    """

    def __len__(self) -> int:
        """How many prompts the pool holds."""
        ...

    def select(self, size: int, exclude: ArrayLike | None = None) -> Selection:
        """The `size` best prompts, best first, none of them in `exclude` (ids in flight).

        Raises ValueError when fewer than `size` are left to choose from.
        """
        ...

    def observe(self, mine: Observation, whole: Observation | None = None) -> None:
        """Learns from one step of the whole pool.

        mine: what the step found out about prompts that this selector holds, n >= 0 of them.
        whole: what the step found out over all shards, `mine` included; None: `mine` is all of it. It has clusters and
            ranks, or means and deviations, for a method that learns from them.

        Raises ValueError, and changes nothing, when one of them cannot be right.
        """
        ...

    # A class may also have `set_aside(whole: Observation) -> None`. It is told, after `observe`, which prompts the step found
    # unusable over all shards. They are in `exclude` from then on, so most selectors need not know.
    #
    # A class whose settings derive from `BeliefSettings` has `begin(evidence: Evidence) -> None`. It is called on a new selector
    # only, with what is known of the prompts of all shards, and changes beliefs but not `times_sampled`; see
    # `dps_ray.selection.evidence`.

    def times_sampled(self, ids: ArrayLike) -> NDArray[np.int64]:
        """At how many steps each id was observed: int64 (n,)."""
        ...

    def metrics(self) -> dict[str, float]:
        """Counts worth a curve, by metric name; those of several shards may be added up."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """The whole state, as arrays and plain numbers that `numpy.savez` can write."""
        ...

    def load_state(self, snapshot: Mapping[str, Any]) -> None:
        """Goes on where the selector of this snapshot stopped.

        For a selector that has observed nothing, and was made with the same settings over the same prompts or more of
        them. What is known of a prompt is by its id; a prompt that the snapshot does not know was never seen.

        Raises ValueError when it was made with other settings, or without a prompt that was observed.
        """
        ...


def check_settings(snapshot: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raises ValueError when a selector with these settings cannot go on from a snapshot, which holds its own."""
    for name, value in settings.items():
        if not np.array_equal(snapshot[name], value):
            raise ValueError(
                f"the snapshot was taken with {name}={snapshot[name]}, and this selector has {value}: make it with "
                "the same settings"
            )
