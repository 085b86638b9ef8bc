"""What the shards propose, and the batch that follows from it.

A selection is the beginning of a ranking of all prompts. So the proposals for one step answer several questions: after
some of them are excluded, the next ones in rank come up, as long as each shard proposed enough.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dps_ray.selection.choice import Selection, merge
from dps_ray.selection.coverage import fresh_of
from dps_ray.selection.mixture import quotas


class Mix(NamedTuple):
    """How a batch is put together.

    weights:     float64 (S,), the part of each source, summing to 1
    seed:        of the run
    fresh_share: part of a batch for prompts never observed
    """

    weights: NDArray[np.float64]
    seed: int
    fresh_share: float

    def wanted(self, size: int) -> int:
        """Returns how many prompts of each source a shard should propose for a batch of this size: enough for a
        second batch and some prompts that turn out to be of no use."""
        # A share of fresh prompts is not the beginning of one ranking.
        return size if self.fresh_share else 2 * size + max(8, size // 8)


class Proposals(NamedTuple):
    """The proposals of all shards for one step.

    wanted:     how many prompts of each source a shard was asked for
    excluded:   int64 ids, ascending, that were left out
    selections: the best prompts by shard and by source, best first; fewer than `wanted` where a shard has no more
    """

    wanted: int
    excluded: NDArray[np.int64]
    selections: Sequence[Sequence[Selection]]

    def settle(self, size: int, excluded: NDArray[np.int64], mix: Mix) -> bool:
        """Whether `best` gives the prompts that the shards would propose if they were asked again.

        excluded: int64 ids, ascending.
        """
        if mix.fresh_share:
            return size == self.wanted and np.array_equal(excluded, self.excluded)
        if not _among(self.excluded, excluded).all():
            return False
        return all(
            len(whole.ids) < self.wanted or len(left.ids) >= size
            for shard, others in zip(self.selections, self._without(excluded), strict=True)
            for whole, left in zip(shard, others, strict=True)
        )

    def best(self, size: int, excluded: NDArray[np.int64], mix: Mix, step: int) -> Selection:
        """Returns the best `size` prompts of those proposed, best first, or all if there are fewer.

        excluded: int64 ids, ascending, to leave out.
        """
        by_source = [*zip(*self._without(excluded), strict=True)]
        # Of each source no more than `size` count, so that the number of shards makes no difference.
        left = [min(size, sum(len(each.ids) for each in shards)) for shards in by_source]
        counts = quotas(mix.weights, size, np.array(left), mix.seed, step).tolist()
        parts = []
        for shards, count in zip(by_source, counts, strict=True):
            fresh = fresh_of(count, mix.fresh_share)
            parts.append(merge(shards if fresh else _first(shards, count), count, fresh))
        return merge(parts, sum(counts))

    def _without(self, excluded: NDArray[np.int64]) -> list[list[Selection]]:
        new = np.setdiff1d(excluded, self.excluded, assume_unique=True)
        if not len(new):
            return [list(shard) for shard in self.selections]
        return [
            [each.take(np.flatnonzero(~_among(each.ids, new))) for each in shard]
            for shard in self.selections
        ]


def _first(selections: Sequence[Selection], count: int) -> list[Selection]:
    return [Selection._make(field[:count] for field in each) for each in selections]


def _among(ids: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the ids are among others, which are ascending: bool (n,)."""
    places = np.searchsorted(others, ids)
    found = places < len(others)
    found[found] = others[places[found]] == ids[found]
    return found
