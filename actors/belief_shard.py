"""A belief shard: the selector of one part of the prompt pool, in an actor of its own.

Every call says which state it is about. A shard that is there answers; one that is new reads the last
checkpoint and the log after it, and then answers. So a call may come twice, and to a successor.
"""

from typing import NamedTuple

import numpy as np
import ray
from numpy.typing import NDArray

from actors.process import log_to
from dps_ray import Selection
from dps_ray.beliefs.states import Observation
from dps_ray.config import Config
from dps_ray.durable import (
    ObservationLog,
    Storage,
    Stored,
    load,
    read_shard,
    shard_file,
    write_snapshot,
)
from dps_ray.errors import CheckpointError, StaleError
from dps_ray.failpoints import failpoint
from dps_ray.hashing import shards
from dps_ray.selection import methods
from dps_ray.selection.clusters import Clusters
from dps_ray.selection.selector import Context, Selector


class BeliefVersion(NamedTuple):
    """A state of the beliefs: that after `step` in `epoch`, which `base` and the log after it lead to."""

    epoch: int
    step: int  # the last that was observed
    base: str | None  # name of a manifest at or before it; None is the beginning


class Proposal(NamedTuple):
    epoch: int  # of the state that proposes
    selection: Selection
    metrics: dict[str, float]  # the selector's own


def make_selector(
    config: Config, ids: NDArray[np.int64], pool: int, clusters: Clusters | None = None
) -> Selector:
    """The selector that `method` names, over these prompts of a pool of `pool`, which are of these clusters."""
    context = Context(config.seed, pool, config.rollout.group_size, config.states, clusters)
    return methods.make(config.method, ids, config.selector, context)


@ray.remote
class BeliefShard:
    """Thin: a selector, and one call a step that observes the last batch and proposes the next."""

    def __init__(
        self,
        config: Config,
        storage: Storage,
        ids: NDArray[np.int64],
        index: int,
        pool: int,
        clusters: Clusters | None = None,
    ):
        log_to(config.folder / "logs", f"beliefs-{index}")
        failpoint("shard.start", shard=index)
        self._config = config
        self._storage = storage
        self._ids = ids
        self._index = index
        self._count = config.resources.beliefs.shards
        self._epoch = 0  # of the state it has; there is none yet
        self._step = 0
        self._pool = pool
        self._clusters = clusters
        self._selector = make_selector(config, ids, pool, clusters)

    def propose(
        self,
        at: BeliefVersion,
        size: int,
        exclude: NDArray[np.int64],
        observation: Observation | None = None,
    ) -> Proposal:
        """This shard's best `size` prompts at a moment, fewer if it has fewer.

        With the observation of the moment's step, that of all shards, which it is to take in unless it has
        (the log has it already).

        Raises:
            StaleError: the shard has gone on to a later epoch or step, or is more than a step behind.
            CheckpointError: a file that leads to the moment is missing or altered.
        """
        self._be_at(at, observation)
        available = len(self._selector) - len(exclude)
        selection = self._selector.select(min(size, available), exclude=exclude)
        return Proposal(self._epoch, selection, self._selector.metrics())

    def times_sampled(self, at: BeliefVersion) -> dict[int, int]:
        """How many prompts were sampled how many times."""
        self._be_at(at)
        times, prompts = np.unique(self._selector.times_sampled(self._ids), return_counts=True)
        return {int(t): int(n) for t, n in zip(times, prompts, strict=True)}

    def save(self, at: BeliefVersion, folder: str) -> Stored:
        """Write `folder/beliefs-00003-of-00016.arrow`. Called again, it finds the file and says the same:
        equal states are equal bytes.

        The moment may be one that the shard has left: a successor is asked for the file of a checkpoint that
        was begun before it, and one step ahead it has taken in the next batch by then.
        """
        if at.epoch == self._epoch and at.step < self._step:
            selector = self._led_to(at)
        else:
            self._be_at(at)
            selector = self._selector
        failpoint("shard.save", step=at.step, shard=self._index)
        path = f"{folder}/{shard_file(self._index, self._count)}"
        if self._storage.exists(path):
            return self._storage.measured(path)
        return write_snapshot(self._storage, path, selector.snapshot())

    def _be_at(self, at: BeliefVersion, observation: Observation | None = None) -> None:
        if at.epoch > self._epoch:
            self._restore(at)
        elif at.epoch == self._epoch and at.step == self._step + 1 and observation is not None:
            failpoint("shard.apply.before", step=at.step, shard=self._index)
            self._observe(self._selector, observation)
            self._step = at.step
            failpoint("shard.apply.after", step=at.step, shard=self._index)
        elif (at.epoch, at.step) != (self._epoch, self._step):
            raise StaleError(
                f"belief shard {self._index} is at step {self._step} of epoch {self._epoch} and cannot "
                f"serve step {at.step} of epoch {at.epoch}"
            )

    def _observe(self, selector: Selector, observation: Observation) -> None:
        mine = observation.take(shards(observation.ids, self._count) == self._index)
        selector.observe(mine, observation)

    def _restore(self, at: BeliefVersion) -> None:
        failpoint("shard.restore", epoch=at.epoch, shard=self._index)
        self._selector = self._led_to(at)
        self._epoch, self._step = at.epoch, at.step

    def _led_to(self, at: BeliefVersion) -> Selector:
        """The state of a moment, from its checkpoint and the log after that.

        Raises:
            CheckpointError: a file that leads to the moment is missing or altered.
        """
        selector, step = make_selector(self._config, self._ids, self._pool, self._clusters), 0
        if at.base is not None:
            manifest = load(self._storage, at.base)
            snapshot = read_shard(self._storage, manifest, self._index, self._count)
            selector.load_state(snapshot)
            step = manifest.step
        for logged, observation in ObservationLog(self._storage, at.epoch).steps_after(step):
            if logged <= at.step:
                self._observe(selector, observation)
                step = logged
        if step != at.step:
            raise CheckpointError(
                f"checkpoint {at.base} and the log of epoch {at.epoch} lead to step {step} and not to {at.step}"
            )
        return selector
