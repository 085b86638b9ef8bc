"""A snapshot of a pooled store, continued with a pool that has changed.

Everything in a snapshot is known by prompt id, except the places of prompts in the rings of their clusters
(`waiting`). These are numbers of the pool that the snapshot was taken with, and `translated` replaces them by numbers of
the present pool. All shards translate alike, from what they share.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dps_ray.selection.clusters import Clusters
from dps_ray.selection.pooled.state_dynamics import of_clusters
from dps_ray.selection.pooled.waiting import keys_of


def translated(snapshot: Mapping[str, Any], clusters: Clusters) -> Mapping[str, Any]:
    """Returns the snapshot as one that was taken with these clusters, and itself if it was.

    The prompts never seen come next, in the order of their hash: new ones, and those that were passed over. Those
    observed before follow in the next lap, and after all of them in this lap where none is new. Recent prompts stay away
    until they are old, as before. New clusters have passed no lap.

    Raises ValueError when `clusters.moved` lacks a recent prompt.
    """
    taken = int(snapshot.get("numbering", 0))  # snapshots of earlier versions have none
    if 0 in (taken, clusters.numbering) or taken == clusters.numbering:
        return snapshot
    recent = np.asarray(snapshot["recent_prompts"])
    aside = np.asarray(snapshot.get("aside_prompts", []), dtype=np.int64)
    labels = ranks = np.empty(0, dtype=np.int32)
    away = np.empty(0, dtype=np.int64)
    if clusters.moved is not None:
        rows = clusters.moved.rows(recent)
        labels, ranks = clusters.moved.labels[rows], clusters.moved.ranks[rows]
        # Prompts that cannot be used stay away too, as far as they are still in the pool.
        unusable = clusters.moved.take(np.isin(clusters.moved.ids, aside))
        away = np.union1d(keys_of(labels, ranks), keys_of(unusable.labels, unusable.ranks))
    elif len(recent):
        raise ValueError(
            f"the snapshot is of another pool, and prompt {recent[0]} was observed in it; give `number_within` the ids of "
            "all prompts observed before as `last`"
        )
    return {
        **snapshot,
        "numbering": clusters.numbering,
        "recent_labels": labels,
        "recent_ranks": ranks,
        "waiting_heads": clusters.starts,
        "waiting_laps": of_clusters(snapshot["waiting_laps"], len(clusters.sizes)),
        "waiting_behind": np.empty(0, dtype=np.int64),
        "waiting_away": away,
    }
