"""The rows of the simulator's tables: which selector, with which settings, and what the loop does with it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dps_ray.selection import methods
from dps_ray.selection.clusters import number_within
from dps_ray.selection.methods import MaPP, Oracle
from dps_ray.selection.methods.partitions import PartitionedHMM
from dps_ray.selection.pooled import PooledStore
from dps_ray.selection.selector import Context, Selector
from pipelines.simulation.model import TOPICS, World
from pipelines.simulation.profiled import ProfiledSelector

Make = Callable[[int, int, int], Selector]  # of prompts, group size, seed


class Entry(NamedTuple):
    """A row.

    make:             the selector over prompts 0 to N - 1, from N, group size and seed
    max_gen_batches:  rollout batches a step at the most, until there are B partial groups
    rest:             steps for which a prompt is left alone once it was rolled out
    group_size:       responses to a prompt; None: as the command says
    """

    make: Make
    max_gen_batches: int = 1
    rest: int = 0
    group_size: int | None = None


def selector(method: str, **settings: Any) -> Make:
    """A selector by its name in a configuration, with these settings."""
    chosen = methods.load(method).Settings(**settings)

    def make(prompts: int, group_size: int, seed: int) -> Selector:
        context = Context(seed, prompts, group_size)
        return methods.make(method, np.arange(prompts), chosen, context)

    return make


def oracle(prompts: int, group_size: int, seed: int) -> Selector:
    return Oracle(np.arange(prompts), group_size, seed)


def offline_filter(prompts: int, group_size: int, seed: int) -> Selector:
    return ProfiledSelector(prompts, seed)


def mapp_greedy(prompts: int, group_size: int, seed: int) -> Selector:
    return MaPP(np.arange(prompts), seed, group_size=group_size, greedy=True)


def partitioned(states: int) -> Make:
    def make(prompts: int, group_size: int, seed: int) -> Selector:
        return PartitionedHMM(np.arange(prompts), seed, states=states)

    return make


def pooled(clusters: str, **settings: Any) -> Make:
    """`dps_pooled` with the prompts' topics as clusters, as many random ones, or one."""

    def make(prompts: int, group_size: int, seed: int) -> Selector:
        labels: dict[str, NDArray[np.integer]] = {
            "topics": World.of(prompts, seed).topic,
            "random": np.random.default_rng([seed, 4]).integers(len(TOPICS), size=prompts),
            "one": np.zeros(prompts, dtype=np.int64),
        }
        ids = np.arange(prompts)
        known = number_within(ids, labels[clusters], seed)
        context = Context(seed, prompts, group_size, clusters=known)
        return methods.make("dps_pooled", ids, PooledStore.Settings(**settings), context)

    return make


UNCAPPED = 10**6
ENTRIES = {
    "uniform": Entry(selector("uniform")),
    "history_resampling": Entry(selector("history_resampling")),
    "greso": Entry(selector("greso"), max_gen_batches=10),
    "ds_4": Entry(selector("uniform"), max_gen_batches=4),
    "ds_10": Entry(selector("uniform"), max_gen_batches=10),
    "ds": Entry(selector("uniform"), max_gen_batches=UNCAPPED),
    "offline_filter": Entry(offline_filter),
    "recency": Entry(selector("recency")),
    "variance_ema": Entry(selector("variance_ema")),
    "mopps": Entry(selector("mopps")),
    "mapp": Entry(selector("mapp")),
    "mapp_greedy": Entry(mapp_greedy),
    "dps": Entry(selector("dps")),
    "dps_counts": Entry(selector("dps", observation="counts")),
    "dps_rest": Entry(selector("dps"), rest=10),
    "dps_counts_rest": Entry(selector("dps", observation="counts"), rest=10),
    "pooled": Entry(pooled("topics", observation="states")),
    "pooled_counts": Entry(pooled("topics", observation="counts")),
    "pooled_random": Entry(pooled("random", observation="states")),
    "pooled_one": Entry(pooled("one", observation="states")),
    "oracle": Entry(oracle),
}

ABLATIONS = {
    "uniform": ENTRIES["uniform"],
    "oracle": ENTRIES["oracle"],
    **{f"decay {d}": Entry(selector("dps", decay=d)) for d in (0, 0.5, 0.7, 0.9, 0.99, 1)},
    **{
        f"k={k}, {name}": ENTRIES[name]._replace(group_size=k)
        for k in (4, 8, 16)
        for name in ("uniform", "dps", "oracle")
    },
    **{f"{count} states": Entry(partitioned(count)) for count in (2, 3, 5, 7)},
    **{
        f"prior {prior}": Entry(selector("dps", prior=prior))
        for prior in ("uniform", "progress", "stability", "local")
    },
    **{f"entropy {w}": Entry(selector("dps", entropy_weight=w)) for w in (0, 0.1, 0.3)},
}
