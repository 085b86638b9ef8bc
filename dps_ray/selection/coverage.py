"""Coverage: limits on how soon and how often a prompt comes again, around any selector.

A greedy selector returns to the few prompts that it knows. These limits reorder its choice: a prompt that rests, or
was used up in this round, comes after all others. A batch is always full. Prompts are taken by the smallest

    behind = REST (steps of rest left) + ROUND (times sampled // max_uses)

and, where that is equal, by the largest score.

The limits depend on each prompt alone, so the result is the same for any number of shards.
"""

from collections.abc import Mapping
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dps_ray.beliefs.states import Observation
from dps_ray.hashing import as_ids
from dps_ray.selection.choice import Selection, merge
from dps_ray.selection.evidence import Evidence
from dps_ray.selection.pool.growing import GrowingArray
from dps_ray.selection.selector import Selector

ROUND = 1e4  # larger than any difference between scores of draws, noise included
REST = 1e3 * ROUND


class CoverageLimits:
    """A selector whose prompts rest between uses and are used in rounds; see `dps_ray.selection.selector.Selector`.

    Args:
        inner: the selector that chooses.
        rest: steps for which a prompt is left alone once it was observed. 0: none.
        max_uses: uses of a prompt in a round; a round ends when every prompt was used this often. None: no limit.
        fresh_share: part of a batch, in [0, 1], for prompts never observed, as far as there are any.

    With `max_uses` or `fresh_share` a selection costs O(prompts ever observed).
    """

    def __init__(
        self,
        inner: Selector,
        rest: int = 0,
        max_uses: int | None = None,
        fresh_share: float = 0.0,
    ) -> None:
        if rest < 0 or (max_uses is not None and max_uses < 1) or not 0 <= fresh_share <= 1:
            raise ValueError(
                f"rest={rest}, max_uses={max_uses}, fresh_share={fresh_share}: a rest is 0 steps or more, uses "
                "are 1 or more, and a share lies between 0 and 1"
            )
        self.inner = inner
        self._rest, self._max_uses, self._fresh_share = rest, max_uses, fresh_share
        self._step = 0
        # Ids, ascending, and the step at which each was observed last.
        self._resting = self._seen_at = np.empty(0, dtype=np.int64)
        self._seen = GrowingArray(np.int64)  # ids ever observed

    def __len__(self) -> int:
        return len(self.inner)

    def select(self, size: int, exclude: ArrayLike | None = None) -> Selection:
        """Returns what the inner selector chooses within the limits, and how far each prompt is put back.

        Raises ValueError when fewer than `size` are left to choose from.
        """
        excluded = np.sort(as_ids([] if exclude is None else exclude))
        twice = excluded[1:][excluded[1:] == excluded[:-1]]
        if len(twice):
            raise ValueError(f"id {twice[0]} is given twice; give each id once")
        ids, behind = self._put_back()
        levels = np.unique(np.append(behind, 0.0))
        parts: list[Selection] = []
        left = size
        for level in levels:
            # This level is reached only when all prompts of earlier levels are taken.
            taken = [part.ids for part in parts]
            others = np.unique(np.concatenate([excluded, ids[behind > level], *taken]))
            part = self.inner.select(min(left, len(self) - len(others)), others)
            parts.append(part._replace(behind=np.full(len(part.ids), level)))
            left -= len(part.ids)
            if not left:
                break
        if left:
            self.inner.select(size, exclude)  # raises with the reason
        chosen = merge(parts, size - left)
        fresh = min(fresh_of(size, self._fresh_share), len(self))
        missing = fresh - int(np.count_nonzero(chosen.times_sampled == 0))
        if missing <= 0:
            return chosen
        others = np.unique(np.concatenate([excluded, self._seen.values, chosen.ids]))
        more = self.inner.select(min(missing, len(self) - len(others)), others)
        return merge([chosen, more], size - left, fresh)

    def _put_back(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Ids of prompts that come after others, and by how much."""
        ids = self._resting if self._max_uses is None else self._seen.values
        behind = np.zeros(len(ids))
        if self._max_uses is not None:
            behind += ROUND * (self.inner.times_sampled(ids) // self._max_uses)
        if len(self._resting):
            left = self._rest - (self._step - self._seen_at)
            places = np.searchsorted(self._resting, ids)
            places = np.minimum(places, len(self._resting) - 1)
            behind += np.where(self._resting[places] == ids, REST * left[places], 0.0)
        return ids[behind > 0], behind[behind > 0]

    def observe(self, mine: Observation, whole: Observation | None = None) -> None:
        """Learns from one step, with the inner selector; see `Selector.observe`."""
        seen = as_ids(mine.ids)
        new = seen[self.inner.times_sampled(seen) == 0]
        self.inner.observe(mine, whole)
        self._step += 1
        self._seen.append(new)
        if self._rest:
            tired = (self._seen_at > self._step - self._rest) & ~np.isin(self._resting, seen)
            resting = np.concatenate([self._resting[tired], seen])
            seen_at = np.concatenate([self._seen_at[tired], np.full(len(seen), self._step)])
            order = np.argsort(resting)
            self._resting, self._seen_at = resting[order], seen_at[order]

    def begin(self, evidence: Evidence) -> None:
        """Begins with evidence, which is no use of a prompt; see `dps_ray.selection.evidence`."""
        inner: Any = self.inner
        inner.begin(evidence)

    def set_aside(self, whole: Observation) -> None:
        """Passes on prompts that cannot be used, if the inner selector wants to know them."""
        inner = getattr(self.inner, "set_aside", None)
        if inner is not None:
            inner(whole)

    def times_sampled(self, ids: ArrayLike) -> NDArray[np.int64]:
        """At how many steps each id was observed: int64 (n,)."""
        return self.inner.times_sampled(ids)

    def metrics(self) -> dict[str, float]:
        """Returns the inner selector's metrics, and how many prompts rest; shards may add theirs up."""
        return {**self.inner.metrics(), "coverage/resting": float(len(self._resting))}

    def snapshot(self) -> dict[str, Any]:
        """The inner selector's, and which prompts rest."""
        return {
            **self.inner.snapshot(),
            "covered_step": self._step,
            "tired_ids": self._resting.copy(),
            "tired_seen_at": self._seen_at.copy(),
        }

    def load_state(self, snapshot: Mapping[str, Any]) -> None:
        """Goes on from a snapshot, with the inner selector; see `Selector.load_state`."""
        self.inner.load_state(snapshot)
        self._step = int(snapshot["covered_step"])
        order = np.argsort(snapshot["tired_ids"])
        self._resting = np.array(snapshot["tired_ids"])[order]
        self._seen_at = np.array(snapshot["tired_seen_at"])[order]
        self._seen.append(np.array(snapshot["seen_ids"]))  # of the inner selector, as every one has


def fresh_of(size: int, share: float) -> int:
    """Returns how many prompts of a batch should be ones never observed."""
    return ceil(share * size - 1e-9)
