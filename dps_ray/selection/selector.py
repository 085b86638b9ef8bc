"""What every selection method offers, so that the pipeline does not know which one runs."""

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dps_ray.beliefs.settings import StateSettings
from dps_ray.beliefs.states import Observation
from dps_ray.selection.choice import Selection
from dps_ray.selection.clusters import Clusters


class Context(NamedTuple):
    """What a selector is told of the run that it is made for.

    seed:       decides ties and draws
    pool:       prompts over all shards; the selector holds those of one
    group_size: k, responses to a prompt
    states:     what makes a group partial
    clusters:   of each id that the selector holds; None where the method does not learn by cluster
    """

    seed: int
    pool: int
    group_size: int
    states: StateSettings = StateSettings()
    clusters: Clusters | None = None


class Selector(Protocol):
    """Chooses the next prompts and learns from what became of them.

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

    def observe(
        self,
        ids: ArrayLike,
        states: ArrayLike,
        successes: ArrayLike | None = None,
        responses: ArrayLike | None = None,
        everywhere: Observation | None = None,
    ) -> None:
        """One step of the whole pool: these prompts were rolled out and found in these solve states.

        ids: int64 (n,), without duplicates; states: int (n,) in {0, 1, 2}; n may be 0.
        successes, responses: int (n,), right and scored responses of each group.
        everywhere: what the whole step found, over all shards, these prompts among them; None: these are
            all. With clusters and ranks, or means and deviations, for a method that learns from them.
        What a method has no use for it does not look at.

        Raises ValueError, and changes nothing, when one of them cannot be right.
        """
        ...

    def times_sampled(self, ids: ArrayLike) -> NDArray[np.int64]:
        """At how many steps each id was observed: int64 (n,)."""
        ...

    def metrics(self) -> dict[str, float]:
        """Counts worth a curve, by metric name; those of several shards may be added up."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """The whole state, as arrays and plain numbers that `numpy.savez` can write.

        `dps_ray.selection.methods.restore` makes a selector from it that goes on where this one stopped.
        """
        ...
