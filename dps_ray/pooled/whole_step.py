"""What a whole step found, over all shards, checked: every shard learns from all of it."""

import numpy as np
from numpy.typing import NDArray

from dps_ray.outcomes import Outcomes
from dps_ray.pool.index import PromptIndex
from dps_ray.pooled.waiting import Waiting
from dps_ray.states import Observation


def whole_step(
    seen: Outcomes, everywhere: Observation | None, index: PromptIndex, waiting: Waiting
) -> Observation:
    """The whole step, ascending by id, with the cluster and rank of each prompt.

    Args:
        seen: what was found of the prompts of this shard.
        everywhere: what was found of all; None, or without clusters: these are all.

    Raises ValueError when the two are at odds, clusters are missing, or there is no such prompt in a cluster.
    """
    if everywhere is None or everywhere.clusters is None or everywhere.ranks is None:
        if everywhere is not None and len(everywhere.ids) != len(seen.positions):
            raise ValueError("the whole step came without clusters, which pooled beliefs need")
        whole = Observation(
            index.ids(seen.positions),
            seen.states,
            _whole_numbers(seen.successes),
            _whole_numbers(seen.responses),
            clusters=waiting.labels[seen.positions],
            ranks=waiting.ranks[seen.positions],
        )
    else:
        whole = everywhere
        labels, ranks = everywhere.clusters, everywhere.ranks
        known = (labels >= 0) & (labels < len(waiting.sizes)) & (ranks >= 0)
        known &= ranks < waiting.sizes.take(labels, mode="clip")
        if not known.all():
            row = np.argmin(known)
            raise ValueError(
                f"prompt {whole.ids[row]} is number {ranks[row]} of cluster {labels[row]}: there is none"
            )
        positions, here = index.find(whole.ids)
        if not np.array_equal(np.sort(positions[here]), np.sort(seen.positions)):
            raise ValueError("the whole step holds other prompts of this shard than were given")
    return whole.take(np.argsort(whole.ids, kind="stable"))


def _whole_numbers(counts: NDArray[np.float64]) -> NDArray[np.int16]:
    """-1 where they were not told."""
    return np.nan_to_num(counts, nan=-1).astype(np.int16)
