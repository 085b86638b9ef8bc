"""A belief shard: the selector of one part of the prompt pool, in an actor of its own."""

from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from actors.process import log_to
from dps_ray import BeliefStore, Selection, UniformSelector
from dps_ray.config import Config
from dps_ray.selector import Selector
from dps_ray.states import Observation


def make_selector(config: Config, ids: NDArray[np.int64]) -> Selector:
    """The selector that `method` names, over these prompts."""
    if config.method == "uniform":
        return UniformSelector(ids, seed=config.seed)
    return BeliefStore(
        ids,
        decay=config.selector.decay,
        prior=config.selector.prior,
        entropy_weight=config.selector.entropy_weight,
        seed=config.seed,
    )


@ray.remote
class BeliefShard:
    """Thin: a selector, and one call a step that observes the last batch and proposes the next."""

    def __init__(self, config: Config, ids: NDArray[np.int64], name: str):
        log_to(config.folder / "logs", name)
        self._ids = ids
        self._selector = make_selector(config, ids)
        share = config.selector.candidates
        self._options = {} if share is None else {"candidates": share}

    def propose(
        self, size: int, exclude: NDArray[np.int64], observation: Observation | None = None
    ) -> tuple[Selection, dict[str, float]]:
        """This shard's best `size` prompts, fewer if it has fewer, and the selector's metrics;
        after observing the last batch, if it is given."""
        if observation is not None:
            self._selector.observe(observation.ids, observation.states)
        available = len(self._selector) - len(exclude)
        selection = self._selector.select(min(size, available), exclude=exclude, **self._options)
        return selection, self._selector.metrics()

    def times_sampled(self) -> dict[int, int]:
        """How many prompts were sampled how many times."""
        times, prompts = np.unique(self._selector.times_sampled(self._ids), return_counts=True)
        return {int(t): int(n) for t, n in zip(times, prompts, strict=True)}

    def snapshot(self) -> dict[str, Any]:
        return self._selector.snapshot()

    def restore(self, snapshot: dict[str, Any]) -> None:
        self._selector = type(self._selector).restore(snapshot, self._ids)
