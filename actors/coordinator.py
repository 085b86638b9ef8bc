"""The coordinator: many belief shards that act as one selector.

    observe(batch) ──> each shard its own prompts ──> each shard proposes its top B
    select()       <── merge: the top B of the proposals <──┘   (while the learner trains)

It lives in the driver and holds no beliefs: what it knows is which shard has which prompt.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.belief_shard import BeliefShard
from actors.calls import collect
from actors.process import environment
from dps_ray import Selection, hashing, merge
from dps_ray.config import Config
from dps_ray.errors import CheckpointError
from dps_ray.states import Observation

_NONE = np.empty(0, dtype=np.int64)


class Coordinator:
    """Selector over all shards. For any number of them it selects the same prompts."""

    def __init__(self, config: Config, ids: NDArray[np.int64]):
        self._count = config.resources.beliefs.shards
        self._batch_size = config.loop.batch_size
        self._timeout = config.timeouts.beliefs
        homes = hashing.shards(ids, self._count)
        self.shards = [
            BeliefShard.options(num_cpus=0, runtime_env=environment(threads=1)).remote(  # type: ignore[attr-defined]
                config, ids[homes == shard], f"beliefs-{shard}"
            )
            for shard in range(self._count)
        ]
        self._proposals: list[Any] | None = None
        self.metrics: dict[
            str, float
        ] = {}  # the selectors' own, summed over shards, at the last select

    def select(self, size: int, exclude: NDArray[np.int64] | None = None) -> Selection:
        """The best `size` prompts of the pool that are not in `exclude` (int64 ids)."""
        proposals = self._proposals if exclude is None and size == self._batch_size else None
        if proposals is None:
            excluded = self._split(_NONE if exclude is None else exclude)
            proposals = [
                shard.propose.remote(size, part)
                for shard, part in zip(self.shards, excluded, strict=True)
            ]
        answers = collect(proposals, self._timeout, "belief shard", "propose")
        totals: Counter[str] = Counter()
        for _, metrics in answers:
            totals.update(metrics)
        self.metrics = dict(totals)
        selections = [selection for selection, _ in answers]
        # Ranking only a share of the pool (selector.candidates) may leave a few less than `size`.
        return merge(selections, min(size, sum(len(s.ids) for s in selections)))

    def observe(self, observation: Observation) -> None:
        """One step for the whole pool. Does not wait: the shards work while the learner trains."""
        homes = hashing.shards(observation.ids, self._count)
        self._proposals = [
            shard.propose.remote(
                self._batch_size,
                _NONE,
                Observation(*(column[homes == index] for column in observation)),
            )
            for index, shard in enumerate(self.shards)
        ]

    def times_sampled(self) -> dict[int, int]:
        """How many prompts of the pool were sampled how many times, the never sampled at 0."""
        total: Counter[int] = Counter()
        for counts in self._ask("times_sampled"):
            total.update(counts)
        return dict(sorted(total.items()))

    def save(self, folder: Path) -> None:
        """A file a shard: `folder/beliefs-00003-of-00016.npz`."""
        folder.mkdir(parents=True, exist_ok=True)
        for index, snapshot in enumerate(self._ask("snapshot")):
            np.savez(self._file(folder, index), **snapshot)

    def load(self, folder: Path) -> None:
        """
        Raises:
            CheckpointError: the snapshots were written by another number of shards.
        """
        calls = []
        for index, shard in enumerate(self.shards):
            file = self._file(folder, index)
            if not file.exists():
                raise CheckpointError(
                    f"{folder} has no {file.name}; resume with the number of belief shards "
                    f"it was written with (resources.beliefs.shards)"
                )
            with np.load(file) as arrays:
                calls.append(shard.restore.remote(dict(arrays)))
        collect(calls, self._timeout, "belief shard", "restore")
        self._proposals = None

    def _file(self, folder: Path, index: int) -> Path:
        return folder / f"beliefs-{index:05}-of-{self._count:05}.npz"

    def _split(self, ids: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        homes = hashing.shards(ids, self._count)
        return [ids[homes == index] for index in range(self._count)]

    def _ask(self, method: str) -> list[Any]:
        calls = [getattr(shard, method).remote() for shard in self.shards]
        return collect(calls, self._timeout, "belief shard", method)
