"""A belief shard: the selectors of one part of the prompt pool, in an actor of its own.

Every call names the version of the beliefs that it is about. A shard that has this version answers. A new shard first
reads the last checkpoint and the log after it. So a call may be repeated, to the same shard or to its replacement.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
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
from dps_ray.selection.evidence import Evidence
from dps_ray.selection.mixture import Mixture
from dps_ray.selection.population import Population
from dps_ray.selection.selector import Context
from dps_ray.selection.settings import SelectorSettings
from dps_ray.selection.signal import score_of


class BeliefVersion(NamedTuple):
    """The state of the beliefs after a step of an epoch.

    epoch: of the driver, or the learner, whose steps these are
    step:  the last step that was observed
    base:  name of a manifest at or before the step, from which the log leads to it; None: from the beginning
    """

    epoch: int
    step: int
    base: str | None


class Proposal(NamedTuple):
    """What a shard proposes.

    epoch:      of its beliefs
    selections: the best prompts of each source
    metrics:    its selectors', added up
    """

    epoch: int
    selections: list[Selection]
    metrics: dict[str, float]


class Prompts(NamedTuple):
    """The prompts of one source in a shard, and what their selector is told of the run.

    ids: int64 (n,)
    """

    ids: NDArray[np.int64]
    context: Context


class Part(NamedTuple):
    """What a shard holds: prompts, and what their selectors are made from.

    shard:    the shard's number, from 0
    shards:   how many shards there are
    method:   see `Config.method`
    settings: of the method
    prompts:  by source; or a reference to them in Ray's object store
    evidence: of the prompts of all shards, from before the run; or a reference to it; None: there is none
    """

    shard: int
    shards: int
    method: str
    settings: SelectorSettings
    prompts: "tuple[Prompts, ...] | ray.ObjectRef"
    evidence: "Evidence | ray.ObjectRef | None" = None

    def stored(self) -> "Part":
        """Returns this part with its prompts in Ray's object store, where a shard and its replacements find them."""
        return self._replace(prompts=ray.put(self.prompts))

    def selector(self) -> Mixture:
        """Returns new selectors over these prompts."""
        held = ray.get(self.prompts) if isinstance(self.prompts, ray.ObjectRef) else self.prompts
        return Mixture(
            [methods.make(self.method, ids, self.settings, context) for ids, context in held]
        )

    def begin(self, selector: Mixture) -> None:
        """Has new selectors begin with the evidence, if there is any."""
        held = self.evidence
        if isinstance(held, ray.ObjectRef):
            held = ray.get(held)
        if held is not None:
            selector.begin(held)


def parts(
    config: Config,
    population: Population,
    count: int,
    evidence: "Evidence | ray.ObjectRef | None" = None,
) -> Iterator[Part]:
    """Yields the parts of a population for so many shards. Each is made when it is asked for."""
    for index, portions in enumerate(population.split(count)):
        prompts = tuple(
            Prompts(
                ids,
                Context(
                    config.seed,
                    pool,
                    config.rollout.group_size,
                    config.states,
                    clusters,
                    score_of(config.objective.baseline, config.objective.scale),
                ),
            )
            for ids, pool, clusters in portions
        )
        yield Part(index, count, config.method, config.selector, prompts, evidence)


def make_selector(
    config: Config, population: Population, evidence: Evidence | None = None
) -> Mixture:
    """Returns the selectors that `method` names, over a whole population, as a run begins."""
    (whole,) = parts(config, population, 1, evidence)
    selector = whole.selector()
    whole.begin(selector)
    return selector


@ray.remote
class BeliefShard:
    """Selectors of a part of the pool, with one call a step that observes the last batch and proposes the next.

    Args:
        part: the prompts that it holds, and what their selectors are made from.
        storage: where checkpoints and the log are.
        logs: folder for what the process prints.
    """

    def __init__(self, part: Part, storage: Storage, logs: Path):
        log_to(logs, f"beliefs-{part.shard}")
        failpoint("shard.start", shard=part.shard)
        self._part = part
        self._index, self._count = part.shard, part.shards
        self._storage = storage
        self._epoch = 0  # of its beliefs; 0: it has none yet
        self._step = 0
        # Made while the driver starts other actors, and used when the first version of the beliefs is known.
        self._new: Mixture | None = part.selector()
        self._selector = self._new

    def propose(
        self,
        at: BeliefVersion,
        size: int,
        exclude: Sequence[NDArray[np.int64]],
        observation: Observation | None = None,
    ) -> Proposal:
        """Returns this shard's best `size` prompts of each source, or all if it has fewer.

        Args:
            at: the version of the beliefs to choose by.
            size: how many prompts to return.
            exclude: int64 ids of this shard to leave out, by source.
            observation: what step `at.step` found out over all shards, already in the log. The shard learns from it if
                it has not yet.

        Raises:
            StaleError: the shard is at a later epoch or step, or more than a step behind.
            CheckpointError: a file that leads to the version is missing or altered.
        """
        self._be_at(at, observation)
        selections = self._selector.select(size, exclude)
        return Proposal(self._epoch, selections, self._selector.metrics())

    def times_sampled(self, at: BeliefVersion) -> dict[int, int]:
        """Returns how many prompts of the shard were sampled how many times, 0 times included."""
        self._be_at(at)
        return self._selector.times_sampled()

    def save(self, at: BeliefVersion, folder: str) -> Stored:
        """Writes `folder/beliefs-00003-of-00016.arrow`. A repeated call finds the file and returns the same: equal
        states are equal bytes.

        `at` may be a version that the shard is past. A replacement is asked for the file of a checkpoint that was begun
        before it started; with `loop.max_staleness=1` it has observed the next batch by then.
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

    def _observe(self, selector: Mixture, observation: Observation) -> None:
        mine = observation.take(shards(observation.ids, self._count) == self._index)
        selector.observe(mine, observation)

    def _restore(self, at: BeliefVersion) -> None:
        failpoint("shard.restore", epoch=at.epoch, shard=self._index)
        self._selector = self._led_to(at)
        self._epoch, self._step = at.epoch, at.step

    def _led_to(self, at: BeliefVersion) -> Mixture:
        """Returns the selectors of this version, from a checkpoint, or the evidence from before the run, and the log after
        that.

        Raises:
            CheckpointError: a file that leads to the version is missing or altered, or the checkpoint is of other
                prompts or settings.
        """
        selector, step = self._new or self._part.selector(), 0
        self._new = None
        if at.base is not None:
            manifest = load(self._storage, at.base)
            snapshot = read_shard(self._storage, manifest, self._index, self._count)
            try:
                selector.load_state(snapshot)
            except ValueError as error:
                raise CheckpointError(f"the run cannot go on from {at.base}: {error}") from error
            step = manifest.step
        else:
            self._part.begin(selector)
        for logged, observation in ObservationLog(self._storage, at.epoch).steps_after(step):
            if logged <= at.step:
                self._observe(selector, observation)
                step = logged
        if step != at.step:
            raise CheckpointError(
                f"checkpoint {at.base} and the log of epoch {at.epoch} lead to step {step} and not to {at.step}"
            )
        return selector
