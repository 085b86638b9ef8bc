"""Several sources in one batch: how many prompts each gives, and one selector for each.

    data.weights ──quotas──> how many prompts of a batch each source gives
    shard:  source 0 ─ Selector      each learns from the observations of its own source,
            source 1 ─ Selector      and takes every step, also one that observed none of its prompts

A mixture with one source is that source's selector, with the same snapshot.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dps_ray.beliefs.states import Observation
from dps_ray.hashing import as_ids, hash_key
from dps_ray.selection.choice import Selection
from dps_ray.selection.evidence import Evidence
from dps_ray.selection.pool.growing import GrowingArray
from dps_ray.selection.selector import Selector

_QUOTAS = 0x71756F74  # keeps this draw apart from others with the same seed and step
_PREFIXED = re.compile(r"source(\d+)_(.+)")


def quotas(
    weights: NDArray[np.float64],
    size: int,
    available: NDArray[np.int64],
    seed: int,
    step: int,
) -> NDArray[np.int64]:
    """Returns how many of `size` prompts come from each source: int64 (S,), by systematic sampling.

    The points (i + u) / size, i = 0 ... size - 1, fall on the sources' parts of [0, 1); u is uniform by (seed, step). So
    each quota is within 1 of weight * size, and equals it on average. A source with fewer prompts gives all of them,
    and the others fill its place by their weights.

    Args:
        weights: float64 (S,), summing to 1.
        available: int64 (S,), prompts that are left in each source. With too few in all, each source gives all.
    """
    taken = np.zeros(len(weights), np.int64)
    while (left := min(size, int(available.sum())) - int(taken.sum())) > 0:
        free = taken < available
        # Sources with weight 0 come last.
        among = weights * free if (weights * free).any() else free.astype(np.float64)
        taken = np.minimum(taken + _systematic(among / among.sum(), left, seed, step), available)
    return taken


def _systematic(weights: NDArray[np.float64], size: int, seed: int, step: int) -> NDArray[np.int64]:
    uniform = ((hash_key(seed, step, _QUOTAS) >> 12) + 0.5) * 2.0**-52
    edges = weights.cumsum() * size
    # Rounding must not give a point to a source without weight.
    edges[np.flatnonzero(weights)[-1] :] = size
    return np.diff(np.ceil(edges - uniform), prepend=0.0).astype(np.int64)


class Mixture:
    """The selectors of one shard, one for each source; see `dps_ray.selection.selector.Selector`.

    Args:
        selectors: by source, new ones that have observed nothing.
    """

    def __init__(self, selectors: Sequence[Selector]) -> None:
        self.selectors = selectors
        self._seen = [GrowingArray(np.int64) for _ in selectors]  # ids ever observed

    def select(
        self, size: int, exclude: Sequence[NDArray[np.int64]] | None = None
    ) -> list[Selection]:
        """Returns the best `size` prompts of each source, best first, or all that it has if there are fewer.

        exclude: int64 ids to leave out, by source.
        """
        none = np.empty(0, np.int64)
        left_out = [none] * len(self.selectors) if exclude is None else exclude
        return [
            selector.select(min(size, len(selector) - len(ids)), ids).ranked()
            for selector, ids in zip(self.selectors, left_out, strict=True)
        ]

    def observe(self, mine: Observation, whole: Observation | None = None) -> None:
        """Learns from one step of the whole pool; see `Selector.observe`.

        Raises ValueError, when one of them cannot be right. With several sources, both need `sources`.
        """
        for source, (selector, seen) in enumerate(zip(self.selectors, self._seen, strict=True)):
            own, unusable = self._of(source, mine).split()
            others = None
            if whole is not None:
                others, unusable = self._of(source, whole).split()
            ids = as_ids(own.ids)
            new = ids[selector.times_sampled(ids) == 0]
            selector.observe(own, others)
            seen.append(new)
            set_aside = getattr(selector, "set_aside", None)
            if len(unusable.ids) and set_aside is not None:
                set_aside(unusable)

    def begin(self, evidence: Evidence) -> None:
        """Has every new selector begin with the evidence of its own source; see `dps_ray.selection.evidence`. With several
        sources the evidence needs `sources`."""
        selector: Any
        for source, selector in enumerate(self.selectors):
            found = evidence.found
            own = evidence
            if len(self.selectors) > 1:
                assert found.sources is not None
                own = evidence.take(found.sources == source)
                own = own._replace(found=own.found._replace(sources=None))
            selector.begin(own)

    def _of(self, source: int, observation: Observation) -> Observation:
        """The observation of the prompts of one source."""
        if len(self.selectors) == 1:
            return observation
        if observation.sources is None:
            raise ValueError(
                f"the observation has no sources, and there are {len(self.selectors)}: give the source of each prompt"
            )
        return observation.take(observation.sources == source)._replace(sources=None)

    def times_sampled(self) -> dict[int, int]:
        """Returns how many prompts were sampled how many times, 0 times included. It costs O(prompts ever observed)."""
        found: Counter[int] = Counter()
        for selector, seen in zip(self.selectors, self._seen, strict=True):
            times, prompts = np.unique(selector.times_sampled(seen.values), return_counts=True)
            found.update(dict(zip(times.tolist(), prompts.tolist(), strict=True)))
            found[0] += len(selector) - len(seen)
        return {times: prompts for times, prompts in sorted(found.items()) if prompts}

    def metrics(self) -> dict[str, float]:
        """Returns the metrics of the selectors, added up."""
        total: Counter[str] = Counter()
        for selector in self.selectors:
            total.update(selector.metrics())
        return dict(total)

    def snapshot(self) -> dict[str, Any]:
        """Returns the snapshots of all sources in one. Entries of source i > 0 have the prefix `sourcei_`, so those of the
        first are the same with one source and with several."""
        found: dict[str, Any] = {}
        for source, (selector, seen) in enumerate(zip(self.selectors, self._seen, strict=True)):
            own = selector.snapshot()
            if "seen_ids" not in own:  # that of a user's own selector may have no such entry
                own["observed_ids"] = np.sort(seen.values)
            found |= {f"source{source}_{name}" if source else name: own[name] for name in own}
        return found

    def load_state(self, snapshot: Mapping[str, Any]) -> None:
        """Goes on from a snapshot; see `Selector.load_state`. A source that the snapshot lacks starts as never observed.

        Raises ValueError when a prompt is of another source than in the snapshot, or a source is gone, or as the
        selectors do.
        """
        parts = _by_source(snapshot)
        if len(parts) > len(self.selectors):
            raise ValueError(
                f"the snapshot has {len(parts)} sources and the run has {len(self.selectors)}; give data.train and "
                "data.weights all sources of before, and new ones after them"
            )
        for source, part in enumerate(parts):
            selector, seen = self.selectors[source], observed_in(part)
            if len(self.selectors) > 1:
                _check_same_source(selector, seen, source)
            selector.load_state(part)
            self._seen[source].append(np.sort(seen))


def _by_source(snapshot: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The snapshots of each source."""
    parts: list[dict[str, Any]] = [{}]
    for name, value in snapshot.items():
        prefixed = _PREFIXED.fullmatch(name)
        source, own = (int(prefixed[1]), prefixed[2]) if prefixed else (0, name)
        parts += [{} for _ in range(len(parts), source + 1)]
        parts[source][own] = value
    return parts


def observed_in(snapshot: Mapping[str, Any]) -> NDArray[np.int64]:
    """The prompts that the selector of this snapshot has observed."""
    none = np.empty(0, np.int64)
    return np.asarray(snapshot.get("seen_ids", snapshot.get("observed_ids", none)))


def _check_same_source(selector: Selector, seen: NDArray[np.int64], source: int) -> None:
    try:
        selector.times_sampled(seen)
    except ValueError as error:
        raise ValueError(
            f"a prompt that was observed as one of source {source} of data.train is not in that source now ({error}): "
            "keep the sources in their order, add new ones at the end, and set data.weights from the start of a run"
        ) from None
