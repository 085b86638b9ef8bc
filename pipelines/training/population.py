"""The prompts that a run selects from, with their clusters and sources, and the record of them that checkpoints keep."""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dps_ray.config import Config
from dps_ray.errors import DataError
from dps_ray.prompts.cache import Cache, Entry, key_of
from dps_ray.selection.clusters import Clusters, Moved, number_within
from dps_ray.selection.evidence import Evidence, by_outcome
from dps_ray.selection.population import Population, number_by_source
from dps_ray.selection.settings import ClusterSettings, StartSettings
from pipelines.rollout.pool import PromptPool
from pipelines.training.pool_record import PoolRecord, numbered_as


def population_of_run(
    pool: PromptPool,
    config: Config,
    before: PoolRecord | None,
    cache: Cache,
    evidence: Evidence | None = None,
) -> tuple[Population, PoolRecord]:
    """Returns the prompts that a run selects from, and its record of them.

    Args:
        before: the record of the checkpoint that the run continues from; None if it starts.
        cache: where the numbers of prompts within clusters are kept.
        evidence: from before the run. A method may leave out prompts because of it; clusters are divided by it.

    Raises:
        DataError: the prompts lack the column of clusters, or the method keeps no prompt.
    """
    table, weights = pool.table, config.data.weights
    if len(pool.ids) == len(table):
        ids, rows = table.sorted_ids, table.order
    else:
        ids = np.sort(pool.ids)
        rows = table.find(ids)[0]
    if evidence is not None and isinstance(config.selector, StartSettings):
        kept = config.selector.kept(evidence)
        if kept is not None:
            ids = np.intersect1d(ids, kept)
            rows = table.find(ids)[0]
        if not len(ids):
            raise DataError(
                f"method={config.method} keeps none of the {len(np.unique(evidence.found.ids)):,} prompts that "
                f"selector.start={config.selector.start} evaluates: use another method, or other limits on the solve rate"
            )
    sources = None if weights is None else table.source_of(ids)
    labels, names = None, list[str]()
    if isinstance(config.selector, ClusterSettings):
        found = table.labels(config.selector.cluster_column)
        known = () if before is None else before.cluster_names
        labels, names = found.labels[rows], found.names
        if evidence is not None:
            labels, names = by_outcome(ids, labels, names, evidence)
        labels, names = numbered_as(known, labels, names)
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
