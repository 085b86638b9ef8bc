"""What a selector chooses, how choices are ranked, and how the choices of several shards are merged."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Selection(NamedTuple):
    """Chosen prompts, best first, with everything needed to rank them against those of another shard.

    ids:            int64 (n,)
    predicted:      float64 (n, 3), P(unsolved), P(partial), P(solved) at the next step;
                    NaN from a selector that predicts nothing
    score:          float64 (n,), what the ranking is by, larger first
    times_sampled:  int64 (n,), steps at which the prompt was observed; among equal scores fewer go first
    tie:            uint64 (n,), a seeded hash of the id; decides what is equal still
    behind:         float64 (n,), how far the prompt is put back by `dps_ray.selection.coverage`, 0 if it is not;
                    smaller values go first, whatever the scores
    """

    ids: NDArray[np.int64]
    predicted: NDArray[np.float64]
    score: NDArray[np.float64]
    times_sampled: NDArray[np.int64]
    tie: NDArray[np.uint64]
    behind: NDArray[np.float64]

    def take(self, rows: NDArray[np.intp]) -> "Selection":
        """The chosen prompts at these places, in this order."""
        return Selection._make(field[rows] for field in self)

    def ranked(self) -> "Selection":
        """Returns the same prompts sorted by (behind, -score, times sampled, tie, id), which is a total order."""
        return self.take(
            np.lexsort((self.ids, self.tie, self.times_sampled, -self.score, self.behind))
        )


def merge(selections: Sequence[Selection], size: int, fresh: int = 0) -> Selection:
    """Returns the `size` best prompts of several shards' selections.

    fresh: this many of the best prompts never sampled (or all, if fewer) are taken whatever their score.

    Each prompt among the `size` best of all is among the `size` best of its shard, so merging what the
    shards propose gives what one store over all ids would have chosen, bit for bit.

    Raises ValueError when fewer than `size` prompts were proposed, or one prompt by two shards.
    """
    if not selections:
        raise ValueError("merge needs the selection of one shard at least, and got none")
    proposed = Selection._make(map(np.concatenate, zip(*selections, strict=True)))
    if not 0 <= size <= len(proposed.ids):
        raise ValueError(
            f"{size} prompts were asked for, and the shards proposed {len(proposed.ids)}: "
            "ask for fewer, or wait until fewer are in flight"
        )
    ids = np.sort(proposed.ids)
    twice = ids[1:][ids[1:] == ids[:-1]]
    if len(twice):
        raise ValueError(f"prompt {twice[0]} was proposed twice: each id belongs to one shard")
    ranked = proposed.ranked()
    if not fresh:
        return Selection._make(field[:size] for field in ranked)
    new = np.flatnonzero(ranked.times_sampled == 0)[: min(fresh, size)]
    others = np.setdiff1d(np.arange(len(ranked.ids)), new)[: size - len(new)]
    return ranked.take(np.sort(np.concatenate([new, others])))


def check_size(size: int, pool: int, excluded: int, candidates: float | None = None) -> None:
    """Raises ValueError unless `size` prompts can be chosen from a pool with `excluded` prompts left out.

    An integer number of candidates is a limit too; a share of the pool is not.
    """
    available = pool - excluded
    if isinstance(candidates, int | np.integer):
        available = min(available, int(candidates))
    if not 0 <= size <= available:
        raise ValueError(
            f"{size} prompts were asked for, and {max(0, available)} can be chosen: the pool holds {pool}, "
            f"{excluded} are excluded, "
            + ("all are" if candidates is None else f"{candidates} are")
            + " candidates"
        )
