"""The prompts that a run selects from, with their clusters and sources, and the record of them that checkpoints keep."""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dps_ray.config import Config
from dps_ray.prompts.cache import Cache, Entry, key_of
from dps_ray.selection.clusters import Clusters, Moved, number_within
from dps_ray.selection.population import Population, number_by_source
from dps_ray.selection.settings import ClusterSettings
from pipelines.rollout.pool import PromptPool
from pipelines.training.pool_record import PoolRecord, numbered_as


def population_of_run(
    pool: PromptPool, config: Config, before: PoolRecord | None, cache: Cache
) -> tuple[Population, PoolRecord]:
    """Returns the prompts that a run selects from, and its record of them.

    Args:
        before: the record of the checkpoint that the run continues from; None if it starts.
        cache: where the numbers of prompts within clusters are kept.

    Raises:
        DataError: the prompts lack the column of clusters.
    """
    table, weights = pool.table, config.data.weights
    if len(pool.ids) == len(table):
        ids, rows = table.sorted_ids, table.order
    else:
        ids = np.sort(pool.ids)
        rows = table.find(ids)[0]
    sources = None if weights is None else table.source_of(ids)
    labels, names = None, list[str]()
    if isinstance(config.selector, ClusterSettings):
        found = table.labels(config.selector.cluster_column)
        known = () if before is None else before.cluster_names
        renamed, names = numbered_as(known, found.labels, found.names)
        labels = renamed[rows]
    record = PoolRecord.of(table.files, ids, labels, sources, names, before)
    clusters = None
    if labels is not None:
        clusters = _numbered(record, ids, labels, sources, config.seed, cache)
    return Population(ids, clusters, sources, weights), record


def _numbered(
    record: PoolRecord,
    ids: NDArray[np.int64],
    labels: NDArray[np.int32],
    sources: NDArray[np.int16] | None,
    seed: int,
    cache: Cache,
) -> Clusters:
    """The numbers of the prompts within their clusters. They take a second for four million prompts."""

    def make() -> Entry:
        last = record.last
        found = (
            number_within(ids, labels, seed, last)
            if sources is None
            else number_by_source(ids, labels, seed, sources, last)
        )
        arrays: dict[str, NDArray[Any]] = {
            "labels": found.labels,
            "ranks": found.ranks,
            "sizes": found.sizes,
        }
        if found.moved is not None:
            arrays |= {f"moved_{name}": array for name, array in found.moved._asdict().items()}
        return Entry(arrays, {"numbering": found.numbering})

    last = hashlib.sha256(record.last.tobytes()).hexdigest()
    kept = cache.kept(key_of("numbers", [(record.population,)], seed=seed, last=last), make)
    array = kept.arrays
    moved = None
    if "moved_ids" in array:
        moved = Moved(array["moved_ids"], array["moved_labels"], array["moved_ranks"])
    numbering = kept.meta["numbering"]
    if isinstance(numbering, list):
        numbering = tuple(numbering)
    return Clusters(array["labels"], array["ranks"], array["sizes"], numbering, moved)
