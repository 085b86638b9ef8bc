"""The coordinator: many belief shards that act as one selector.

    observe(batch) ──> log ──> each shard its own prompts ──> each shard proposes its top B
    select()       <── merge: the top B of the proposals   <──┘   (while the learner trains)

It lives in the driver and holds no beliefs, only which shard has which prompt. A shard that is lost is replaced and
asked again; the new one restores its beliefs from the last checkpoint and the log.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.belief_shard import BeliefShard, BeliefVersion, Part, Proposal, parts
from actors.calls import Lost, outcomes
from actors.managed_actor import ManagedActor, RestartTracker
from actors.process import environment
from dps_ray import Selection, hashing, merge
from dps_ray.beliefs.states import Observation
from dps_ray.config import Config
from dps_ray.durable import ObservationLog, Storage, Stored
from dps_ray.errors import StaleError
from dps_ray.selection.clusters import Clusters
from dps_ray.selection.coverage import fresh_of

_NONE = np.empty(0, dtype=np.int64)


class Coordinator:
    """Selects over all shards: the same prompts for any number of them.

    `rewind` must be called first; it says at which version of the beliefs to start.

    Args:
        config: of the run.
        storage: where checkpoints and the log are.
        ids: int64 (N,), the pool.
        recoveries: counts replacements of shards.
        place: returns the Ray options of a shard, by its index: where it runs, and with what.
        clusters: of each id, for a method that learns by cluster; None for other methods.
    """

    def __init__(
        self,
        config: Config,
        storage: Storage,
        ids: NDArray[np.int64],
        recoveries: RestartTracker,
        place: Callable[[int], dict[str, Any]],
        clusters: Clusters | None = None,
    ):
        self._count = config.resources.beliefs.shards
        self._batch_size = config.loop.batch_size
        self._fresh_share = config.selector.fresh_share
        self._timeouts = config.timeouts
        self._storage = storage
        self._clusters = None if clusters is None else _ClusterOf(ids, clusters)
        logs = config.folder / "logs"

        def start(part: Part) -> Callable[[int], Any]:
            options = BeliefShard.options(  # type: ignore[attr-defined]
                **place(part.shard),
                runtime_env=environment(threads=1),
            )
            return lambda incarnation: options.remote(part, storage, logs)

        self.members = [
            ManagedActor("belief_shard", part.shard, start(part), recoveries)
            for part in parts(config, ids, self._count, clusters)
        ]
        self.excluded = _NONE  # int64 ids that are never selected
        # Of the selectors, summed over shards, at the last select.
        self.metrics: dict[str, float] = {}
        self._at = BeliefVersion(0, 0, None)
        self._proposals: _Asked | None = None

    def rewind(self, at: BeliefVersion) -> None:
        """Goes to another version of the beliefs, in a new epoch."""
        self._at = at
        self._proposals = None

    def committed(self, name: str) -> None:
        """Notes that the manifest of this name holds a version at or before the present one."""
        self._at = self._at._replace(base=name)

    def select(self, size: int, exclude: NDArray[np.int64] = _NONE) -> Selection:
        """Returns the best `size` prompts of the pool that are neither in `exclude` (int64 ids) nor in `excluded`."""
        excluded = np.union1d(exclude, self.excluded)
        asked = self._proposals
        if asked is None or asked.about != (size, excluded.tobytes()):
            asked = self._ask_for_proposals(size, excluded)
        proposals: list[Proposal] = self._answers(asked, self._timeouts.beliefs)
        if any(proposal.epoch != self._at.epoch for proposal in proposals):
            raise StaleError(f"a belief shard answered from another epoch than {self._at.epoch}")
        totals: Counter[str] = Counter()
        for proposal in proposals:
            totals.update(proposal.metrics)
        self.metrics = dict(totals)
        selections = [proposal.selection for proposal in proposals]
        # Ranking only a share of the pool (selector.candidates) may leave a few less than `size`.
        size = min(size, sum(len(s.ids) for s in selections))
        return merge(selections, size, fresh_of(size, self._fresh_share))

    def observe(self, step: int, observation: Observation) -> None:
        """Writes down what a step found out, then has the shards learn from it and propose the next batch.

        It does not wait for the shards, which work while the learner trains.

        Raises:
            CheckpointError: the observation could not be written; nothing has changed.
        """
        observation = self.clustered(observation)
        ObservationLog(self._storage, self._at.epoch).append(step, observation)
        self._at = self._at._replace(step=step)
        self._proposals = self._ask_for_proposals(self._batch_size, self.excluded, observation)

    def clustered(self, observation: Observation) -> Observation:
        """Returns the observation with the clusters of its prompts, if the method learns by cluster."""
        if self._clusters is None:
            return observation
        clusters = self._clusters(observation.ids)
        return observation._replace(clusters=clusters.labels, ranks=clusters.ranks)

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

    def _ask_for_proposals(
        self, size: int, excluded: NDArray[np.int64], observation: Observation | None = None
    ) -> "_Asked":
        homes = hashing.shards(excluded, self._count)
        arguments = [(size, excluded[homes == i], observation) for i in range(self._count)]
        asked = self._ask("propose", arguments)
        asked.about = (size, excluded.tobytes())
        return asked

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


class _ClusterOf:
    """Looks up the clusters of prompts by their ids."""

    def __init__(self, ids: NDArray[np.int64], clusters: Clusters) -> None:
        order = np.argsort(ids)
        self._ids, self._clusters = ids[order], clusters.take(order)

    def __call__(self, ids: NDArray[np.int64]) -> Clusters:
        return self._clusters.take(np.searchsorted(self._ids, ids))


class _Call(NamedTuple):
    incarnation: int  # of the shard that was called
    reply: Any


@dataclass
class _Asked:
    """A call to every shard, which can be made again to one that was replaced."""

    send: Callable[[ManagedActor], Any]
    calls: list[_Call]
    about: tuple[int, bytes] | None = None  # of proposals: size and excluded
