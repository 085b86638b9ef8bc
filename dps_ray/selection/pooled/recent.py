"""Prompts tried lately. Every shard keeps those of the whole pool, because each updates cluster statistics."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dps_ray.beliefs.hmm import Floats


class Recent(NamedTuple):
    """Prompts tried recently, ascending by id.

    ids:     int64 (n,)
    labels:  int32 (n,), the cluster of each
    ranks:   int32 (n,), its number there
    seen_at: int64 (n,), the step at which it was last observed
    uses:    int64 (n,), how often it was observed since it last waited
    lap:     int64 (n,), the lap of its ring in which it last waited
    parameters: float64 (R, n), what is believed of it
    """

    ids: NDArray[np.int64]
    labels: NDArray[np.int32]
    ranks: NDArray[np.int32]
    seen_at: NDArray[np.int64]
    uses: NDArray[np.int64]
    lap: NDArray[np.int64]
    parameters: Floats

    @classmethod
    def none(cls, width: int) -> "Recent":
        nothing = np.empty(0, dtype=np.int64)
        small = nothing.astype(np.int32)
        return cls(nothing, small, small, nothing, nothing, nothing, np.empty((width, 0)))

    @classmethod
    def tried(
        cls,
        ids: NDArray[np.int64],
        labels: NDArray[np.int32],
        ranks: NDArray[np.int32],
        step: int,
        lap: NDArray[np.int64],
        parameters: Floats,
    ) -> "Recent":
        """Returns prompts that waited until this step, in which they were tried."""
        once = np.ones(len(ids), dtype=np.int64)
        return cls(ids, labels, ranks, step * once, once, lap, parameters)

    def find(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the row of each id: int64 (n,), -1 if it has none."""
        if not len(self.ids):
            return np.full(len(ids), -1)
        rows = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return np.where(self.ids[rows] == ids, rows, -1)

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> "Recent":
        return Recent._make(column[..., rows] for column in self)

    def rounds(self, max_uses: int) -> NDArray[np.int64]:
        """Returns how often each was used up: int64 (n,)."""
        return self.lap + self.uses // max_uses

    def rest(self, step: int, usual: int, pool: int) -> int:
        """Returns the steps of rest that leave half of so many prompts, `usual` at most."""
        age = np.minimum(step - self.seen_at, usual)
        # In the last step, the last two, and so on:
        tried = np.bincount(age, minlength=usual + 1)[:usual].cumsum()
        return int(np.count_nonzero(2 * tried <= pool))

    def tried_again(self, rows: NDArray[np.integer], step: int, parameters: Floats) -> "Recent":
        """After a step in which these rows were tried, after which all have these parameters."""
        seen_at, uses = self.seen_at.copy(), self.uses.copy()
        seen_at[rows] = step
        uses[rows] += 1
        return self._replace(seen_at=seen_at, uses=uses, parameters=parameters)

    def joined(self, other: "Recent") -> "Recent":
        """Returns these prompts and the other ones, ascending by id."""
        pairs: zip[tuple[NDArray[Any], NDArray[Any]]] = zip(self, other, strict=True)
        both = Recent._make(np.concatenate(pair, axis=-1) for pair in pairs)
        return both.take(np.argsort(both.ids, kind="stable"))

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Returns the columns, under names without `ids`: they are alike in all shards, and not split as prompts are."""
        return {_saved(name): column.copy() for name, column in self._asdict().items()}

    @classmethod
    def restore(cls, snapshot: Mapping[str, Any]) -> "Recent":
        return cls(*(np.array(snapshot[_saved(name)]) for name in cls._fields))


def _saved(name: str) -> str:
    # Names of earlier versions, whose snapshots can be read.
    return {"ids": "recent_prompts", "parameters": "recent_numbers"}.get(name, f"recent_{name}")
