"""What a whole step found, over all shards, with clusters: every shard learns from all of it."""

import numpy as np

from dps_ray.beliefs.states import Observation
from dps_ray.selection.pool.index import PromptIndex
from dps_ray.selection.pooled.waiting import Keys, Waiting, keys_of


def clustered(whole: Observation, index: PromptIndex, waiting: Waiting) -> Observation:
    """The whole step with the cluster and rank of each prompt.

    whole: without clusters only if all its prompts are of this shard, and `index` and `waiting` know theirs.

    Raises ValueError when clusters are missing, and when there is no such prompt in a cluster.
    """
    labels, ranks = whole.clusters, whole.ranks
    if labels is None or ranks is None:
        positions, here = index.find(whole.ids)
        if not here.all():
            raise ValueError(
                f"the whole step came without clusters, and prompt {whole.ids[np.argmin(here)]} is of another "
                "shard: pooled beliefs need its cluster and rank"
            )
        return whole._replace(clusters=waiting.labels[positions], ranks=waiting.ranks[positions])
    known = (labels >= 0) & (labels < len(waiting.sizes)) & (ranks >= 0)
    known &= ranks < waiting.sizes.take(labels, mode="clip")
    if not known.all():
        row = np.argmin(known)
        raise ValueError(
            f"prompt {whole.ids[row]} is number {ranks[row]} of cluster {labels[row]}: there is none"
        )
    return whole


def step_keys(whole: Observation) -> Keys:
    """Returns the keys of the prompts of a step, which has clusters and ranks."""
    assert whole.clusters is not None
    assert whole.ranks is not None
    return keys_of(whole.clusters, whole.ranks)
