"""The coordinator: many belief shards that act as one selector.

    observe(batch) ──> log ──> each shard its own prompts ──> each shard proposes its best 2 B and some
    select()       <── the best B of the proposals         <──┘   (while the learner trains)

It lives in the driver and holds no beliefs, only the population. A shard that is lost is replaced and asked again; the
new one restores its beliefs from the last checkpoint and the log.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import ray
from numpy.typing import NDArray

from actors.belief_shard import BeliefShard, BeliefVersion, Part, Proposal, parts
from actors.calls import Lost, outcomes
from actors.managed_actor import ManagedActor, RestartTracker
from actors.process import environment
from dps_ray import Selection, hashing
from dps_ray.beliefs.states import Observation
from dps_ray.config import Config
from dps_ray.durable import ObservationLog, Storage, Stored
from dps_ray.errors import StaleError
from dps_ray.selection.evidence import Evidence
from dps_ray.selection.population import Population
from dps_ray.selection.proposals import Mix, Proposals

_NONE = np.empty(0, dtype=np.int64)


class Coordinator:
    """Selects over all shards: the same prompts for any number of them.

    `rewind` must be called first; it says at which version of the beliefs to start.

    Args:
        config: of the run.
        storage: where checkpoints and the log are.
        population: the prompts to select from.
        recoveries: counts replacements of shards.
        place: returns the Ray options of a shard, by its index: where it runs, and with what.
        evidence: from before the run, of prompts of the population; None: there is none.
    """

    def __init__(
        self,
        config: Config,
        storage: Storage,
        population: Population,
        recoveries: RestartTracker,
        place: Callable[[int], dict[str, Any]],
        evidence: Evidence | None = None,
    ):
        self.population = population
        self._count = config.resources.beliefs.shards
        self._batch_size = config.loop.batch_size
        self._mix = Mix(population.weights, config.seed, config.selector.fresh_share)
        self._timeouts = config.timeouts
        self._storage = storage
        logs = config.folder / "logs"

        def start(part: Part) -> Callable[[int], Any]:
            options = BeliefShard.options(  # type: ignore[attr-defined]
                **place(part.shard),
                runtime_env=environment(threads=1),
            )
            stored = part.stored()
            return lambda incarnation: options.remote(stored, storage, logs)

        shared = (
            None
            if evidence is None
            else ray.put(evidence._replace(found=population.describe(evidence.found)))
        )
        self.members = [
            ManagedActor("belief_shard", part.shard, start(part), recoveries)
            for part in parts(config, population, self._count, shared)
        ]
        self.excluded = _NONE  # int64 ids that are never selected
        # Of the selectors, summed over shards, at the last select.
        self.metrics: dict[str, float] = {}
        self._at = BeliefVersion(0, 0, None)
        self._asked: _Asked | None = None  # for proposals
        self._proposals: Proposals | None = None  # what the last select chose from
        self._chosen = _NONE  # int64 ids of the last select

    def rewind(self, at: BeliefVersion) -> None:
        """Goes to another version of the beliefs, in a new epoch."""
        self._at = at
        self._asked = self._proposals = None

    def committed(self, name: str) -> None:
        """Notes that the manifest of this name holds a version at or before the present one."""
        self._at = self._at._replace(base=name)

    def select(self, size: int, exclude: NDArray[np.int64] = _NONE) -> Selection:
        """Returns the best `size` prompts of the pool that are neither in `exclude` (int64 ids) nor in `excluded`; with
        weights, of each source its part.

        The shards are asked again only when what they proposed does not settle it: selecting again with some more
        excluded, such as prompts that turned out to be too long, usually costs no call.
        """
        excluded = self._excluded(exclude)
        if self._asked is None:
            self._ask_for_proposals(size, excluded)
        proposals = self._received()
        if not proposals.settle(size, excluded, self._mix):
            self._ask_for_proposals(size, excluded)
            proposals = self._received()
        selection = proposals.best(size, excluded, self._mix, self._at.step)
        self._proposals, self._chosen = proposals, selection.ids
        return selection

    def likely_next(self) -> NDArray[np.int64]:
        """Returns prompts that the next batch will likely hold, best first: int64 ids, at most a batch. They are the best
        that were proposed when the last batch was selected, without that batch. It does not wait for the shards."""
        if self._proposals is None:
            return _NONE
        excluded = self._excluded(np.union1d(self._chosen, self._proposals.excluded))
        return self._proposals.best(self._batch_size, excluded, self._mix, self._at.step).ids

    def observe(self, step: int, observation: Observation) -> None:
        """Writes down what a step found out, then has the shards learn from it and propose the next batch.

        It does not wait for the shards, which work while the learner trains.

        Raises:
            CheckpointError: the observation could not be written; nothing has changed.
        """
        observation = self.population.describe(observation)
        ObservationLog(self._storage, self._at.epoch).append(step, observation)
        self._at = self._at._replace(step=step)
        self._ask_for_proposals(self._batch_size, self._excluded(), observation)

    def times_sampled(self) -> dict[int, int]:
        """Returns how many prompts of the pool were sampled how many times, 0 times included."""
        total: Counter[int] = Counter()
        for counts in self._answers(self._ask("times_sampled"), self._timeouts.beliefs):
            total.update(counts)
        return dict(sorted(total.items()))

    def save(self, folder: str) -> Callable[[], list[Stored]]:
        """Starts to write one file for each shard, and returns a function that waits for them."""
        asked = self._ask("save", [(folder,)] * self._count)
        return lambda: self._answers(asked, self._timeouts.checkpoint)

    def stop(self) -> None:
        """Ends every shard."""
        for member in self.members:
            member.kill()

    def _excluded(self, ids: NDArray[np.int64] = _NONE) -> NDArray[np.int64]:
        """Returns these ids and those that are never selected, as far as they are in the population: ascending."""
        every = np.union1d(ids, self.excluded)
        return every[self.population.find(every)[1]]

    def _ask_for_proposals(
        self, size: int, excluded: NDArray[np.int64], observation: Observation | None = None
    ) -> None:
        """Asks every shard for enough to select `size` prompts. excluded: int64 ids of the population, ascending."""
        wanted = self._mix.wanted(size)
        homes = hashing.shards(excluded, self._count)
        sources = self.population.sources(self.population.rows(excluded))
        arguments = [
            (
                wanted,
                [excluded[(homes == i) & (sources == j)] for j in range(self.population.count)],
                observation,
            )
            for i in range(self._count)
        ]
        self._asked = self._ask("propose", arguments)
        self._asked.about = (wanted, excluded)

    def _received(self) -> Proposals:
        """Waits for the proposals that the shards were asked for.

        Raises:
            EngineError: a shard was lost too often.
        """
        asked = self._asked
        assert asked is not None
        assert asked.about is not None
        if asked.proposals is None:
            answers: list[Proposal] = self._answers(asked, self._timeouts.beliefs)
            if any(answer.epoch != self._at.epoch for answer in answers):
                raise StaleError(
                    f"a belief shard answered from another epoch than {self._at.epoch}"
                )
            totals: Counter[str] = Counter()
            for answer in answers:
                totals.update(answer.metrics)
            self.metrics = dict(totals)
            asked.proposals = Proposals(*asked.about, [answer.selections for answer in answers])
        return asked.proposals

    def _ask(self, method: str, arguments: Sequence[tuple[Any, ...]] | None = None) -> "_Asked":
        """Calls every shard about the present version, each with its own arguments."""
        step, given = self._at.step, arguments or [()] * self._count

        def send(member: ManagedActor) -> Any:
            at = self._at._replace(step=step)  # with a base that is still there when asked again
            return getattr(member.actor, method).remote(at, *given[member.index])

        return _Asked(send, [_Call(member.incarnation, send(member)) for member in self.members])

    def _answers(self, asked: "_Asked", timeout: float) -> list[Any]:
        """Returns the answers of all shards. A shard that is lost is replaced and asked again.

        Raises:
            EngineError: a shard was lost too often.
        """
        missing = self.members
        answers: dict[int, Any] = {}
        while missing:
            found = outcomes([asked.calls[m.index].reply for m in missing], timeout)
            answers.update(zip((m.index for m in missing), found, strict=True))
            missing = [m for m in missing if isinstance(answers[m.index], Lost)]
            for member in missing:
                # It may have been replaced since, when another call to it was waited for.
                if asked.calls[member.index].incarnation == member.incarnation:
                    member.replace(answers[member.index].why)
                asked.calls[member.index] = _Call(member.incarnation, asked.send(member))
        for member in self.members:
            member.record_success()
        return [answers[member.index] for member in self.members]


class _Call(NamedTuple):
    incarnation: int  # of the shard that was called
    reply: Any


@dataclass
class _Asked:
    """A call to every shard, which can be made again to one that was replaced."""

    send: Callable[[ManagedActor], Any]
    calls: list[_Call]
    # Of proposals: how many were asked for, the ids left out, and what came.
    about: tuple[int, NDArray[np.int64]] | None = None
    proposals: Proposals | None = None
