"""The prompts that a run selects from, and how they are divided among shards and sources.

A *source* is one entry of `data.train`. With `data.weights` each source has a selector of its own in every shard;
without weights all prompts count as one source.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dps_ray import hashing
from dps_ray.beliefs.states import Observation
from dps_ray.hashing import as_ids
from dps_ray.selection.clusters import Clusters, Moved, number_within

_BLOCK = 1 << 22  # prompts that are assigned to shards at a time


class Portion(NamedTuple):
    """The prompts of one source in one shard.

    ids:      int64 (n,), ascending
    pool:     how many prompts of the source all shards hold together
    clusters: of each id, for a method that learns by cluster
    """

    ids: NDArray[np.int64]
    pool: int
    clusters: Clusters | None


class Population:
    """All prompts of a run.

    Args:
        ids: int64 (N,), ascending and unique. The array is not copied and may be memory-mapped.
        clusters: of each id, for a method that learns by cluster: from `number_within` without weights, and from
            `number_by_source` with them.
        sources: int16 (N,), the source of each id, from 0; needed with weights.
        weights: the part of a batch for each source, S numbers of any scale; None: all prompts count as one source.

    Raises:
        ValueError: the ids are not ascending, or the arguments do not fit each other.
    """

    def __init__(
        self,
        ids: ArrayLike,
        clusters: Clusters | None = None,
        sources: ArrayLike | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.ids = as_ids(ids)
        unordered = np.flatnonzero(self.ids[1:] <= self.ids[:-1])
        if len(unordered):
            first, second = self.ids[unordered[0] : unordered[0] + 2]
            raise ValueError(f"ids must be unique and ascending, and {first} comes before {second}")
        if clusters is not None and len(clusters.labels) != len(self):
            raise ValueError(f"{len(self)} ids came with the clusters of {len(clusters.labels)}")
        self.weights = np.ones(1) if weights is None else checked_weights(weights)
        self._sources = None
        if len(self.weights) > 1:
            if sources is None:
                raise ValueError("weights are given without sources; give the source of each id")
            self._sources = _checked_sources(sources, len(self), len(self.weights))
        self.clusters = clusters
        if clusters is not None and clusters.sizes.ndim == 2 and self._sources is None:
            self.clusters = _of_source(clusters, 0)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def count(self) -> int:
        """S, how many sources there are."""
        return len(self.weights)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """How many prompts each source has: int64 (S,)."""
        if self._sources is None:
            return np.array([len(self)])
        return np.bincount(self._sources, minlength=self.count).astype(np.int64)

    def find(self, ids: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Returns the rows of these ids in `ids`, and which of them are there at all: int64 and bool (n,)."""
        wanted = as_ids(ids)
        rows = np.searchsorted(self.ids, wanted)
        found = rows < len(self)
        found[found] = self.ids[rows[found]] == wanted[found]
        return rows, found

    def rows(self, ids: ArrayLike) -> NDArray[np.int64]:
        """Returns the rows of these ids: int64 (n,).

        Raises ValueError for an id that is not in the population.
        """
        rows, found = self.find(ids)
        if not found.all():
            raise ValueError(f"id {as_ids(ids)[~found][0]} is not in the pool")
        return rows

    def sources(self, rows: NDArray[np.int64]) -> NDArray[np.int16]:
        """Returns the source of the prompts at these rows: int16 (n,)."""
        if self._sources is None:
            return np.zeros(len(rows), np.int16)
        return self._sources[rows]

    def describe(self, observation: Observation) -> Observation:
        """Returns the observation with clusters and ranks, if the method learns by cluster, and with sources, if there
        are several.

        Raises ValueError for a prompt that is not in the population.
        """
        if self.clusters is None and self._sources is None:
            return observation
        rows = self.rows(observation.ids)
        if self.clusters is not None:
            its = self.clusters.take(rows)
            observation = observation._replace(clusters=its.labels, ranks=its.ranks)
        if self._sources is not None:
            observation = observation._replace(sources=self._sources[rows])
        return observation

    def split(self, shards: int) -> Iterator[tuple[Portion, ...]]:
        """Yields what each shard holds, source by source. All shards together cost O(N)."""
        blocks = []
        for start in range(0, max(len(self), 1), _BLOCK):
            homes = hashing.shards(self.ids[start : start + _BLOCK], shards).astype(np.uint16)
            order = np.argsort(homes, kind="stable").astype(np.int32)
            ends = np.bincount(homes, minlength=shards).cumsum()
            blocks.append((np.int64(start), np.split(order, ends[:-1])))
        sizes = self.sizes.tolist()
        for shard in range(shards):
            rows = np.concatenate([start + orders[shard] for start, orders in blocks])
            by_source = [rows]
            if self._sources is not None:
                of = self._sources[rows]
                by_source = [rows[of == source] for source in range(self.count)]
            yield tuple(
                self._portion(its, source, sizes[source]) for source, its in enumerate(by_source)
            )

    def _portion(self, rows: NDArray[np.int64], source: int, pool: int) -> Portion:
        clusters = self.clusters
        if clusters is not None:
            clusters = clusters.take(rows)
            if self.count > 1:
                moved = clusters.moved
                if moved is not None:
                    moved = moved.take(self.sources(self.rows(moved.ids)) == source)
                clusters = _of_source(clusters._replace(moved=moved), source)
        return Portion(self.ids[rows], pool, clusters)


def _of_source(clusters: Clusters, source: int) -> Clusters:
    """The clusters with the sizes and the numbering of one source."""
    numbering = clusters.numbering
    if isinstance(numbering, tuple):
        numbering = numbering[source]
    return clusters._replace(sizes=clusters.sizes[source], numbering=numbering)


def number_by_source(
    ids: ArrayLike,
    labels: ArrayLike | None,
    seed: int,
    sources: ArrayLike,
    last: ArrayLike | None = None,
) -> Clusters:
    """Numbers the prompts of each cluster within each source; see `number_within`.

    sources: int (N,), the source of each id, from 0.

    Returns clusters whose `sizes` are int64 (S, C): a cluster that occurs in two sources has ranks from 0 in each.
    """
    known, of = as_ids(ids), np.asarray(sources)
    given = np.zeros(len(known), np.int32) if labels is None else np.asarray(labels)
    rows_of = [np.flatnonzero(of == source) for source in range(int(of.max(initial=0)) + 1)]
    numbered = [number_within(known[rows], given[rows], seed, last) for rows in rows_of]
    moved = [each.moved for each in numbered if each.moved is not None]
    whole = Clusters(
        given.astype(np.int32),
        np.empty(len(known), np.int32),
        np.zeros((len(numbered), max(len(each.sizes) for each in numbered)), np.int64),
        tuple(each.numbering for each in numbered if isinstance(each.numbering, int)),
        Moved.joined(moved) if moved else None,
    )
    for source, (rows, each) in enumerate(zip(rows_of, numbered, strict=True)):
        whole.ranks[rows] = each.ranks
        whole.sizes[source, : len(each.sizes)] = each.sizes
    return whole


def checked_weights(weights: Sequence[float]) -> NDArray[np.float64]:
    """Returns the weights scaled to sum to 1: float64 (S,).

    Raises ValueError when one of them is negative, infinite or NaN, or all are 0.
    """
    given = np.asarray(weights, np.float64)
    if given.ndim != 1 or not len(given):
        raise ValueError(f"weights={weights!r}: give one number for each source")
    wrong = given[~((given >= 0) & np.isfinite(given))]
    if len(wrong) or not given.sum() > 0:
        raise ValueError(
            f"weights={given.tolist()}: each must be finite and 0 or more, and one of them above 0"
        )
    scaled: NDArray[np.float64] = given / given.sum()
    return scaled


def _checked_sources(sources: ArrayLike, prompts: int, count: int) -> NDArray[np.int16]:
    given = np.asarray(sources)
    if given.shape != (prompts,) or given.dtype.kind not in "iu":
        raise ValueError(
            f"sources must be {prompts} integers, one for each id, not {given.dtype} of shape {given.shape}"
        )
    if len(given) and not 0 <= given.min() <= given.max() < count:
        wrong = given.min() if given.min() < 0 else given.max()
        raise ValueError(f"source {wrong} has no weight: there are weights for 0 to {count - 1}")
    return given.astype(np.int16, copy=False)
