"""What a step of the beliefs costs through Ray, beside an empty call to the same actors.

The empty call carries the same observation to every shard and the same selection back, and does nothing in
between: what is left of the ratio is the log's entry, the beliefs' own work and the merging of the proposals.
"""

import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import ray

from actors.belief_shard import BeliefVersion
from actors.coordinator import Coordinator
from actors.managed_actor import RestartTracker
from benchmarks.belief_methods import DriftingLearner
from cluster.placement import Placement, plan
from dps_ray.beliefs.states import Observation
from dps_ray.config import settings
from dps_ray.durable import Storage
from dps_ray.selection.population import Population
from dps_ray.selection.proposals import Mix

_WARM_UP, _TIMED = 60, 100  # steps


class ShardsRow(NamedTuple):
    """One number of shards. Milliseconds are medians over the timed steps."""

    shards: int
    prompts: int
    milliseconds: float  # observe a batch and select the next, through the coordinator
    empty_milliseconds: float  # an empty call to all shards, with the same payload
    ratio: float  # median of step over empty call, pair by pair


def through_ray(shard_counts: Sequence[int], prompts: int, batch: int) -> Iterator[ShardsRow]:
    """Each number of shards in turn, on a Ray of its own."""
    if not shard_counts:
        return
    ray.init(
        address="local",
        num_cpus=os.cpu_count(),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        for shards in shard_counts:
            yield _measure(shards, prompts, batch)
    finally:
        ray.shutdown()


def _measure(shards: int, prompts: int, batch: int) -> ShardsRow:
    """Drive real shards with a drifting simulated learner; steps and empty calls in turns."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            f"folder={folder}",
            f"loop.batch_size={batch}",
            f"resources.beliefs.shards={shards}",
        ]
        config = settings.load(None, overrides)
        place = Placement(plan(config)).beliefs
        coordinator = Coordinator(
            config, Storage.at(folder), Population(np.arange(prompts)), RestartTracker(), place
        )
        coordinator.rewind(BeliefVersion(1, 0, None))
        actors = [member.actor for member in coordinator.members]
        learner = DriftingLearner(0)
        ids = np.sort(coordinator.select(batch).ids)
        size = Mix(np.ones(1), config.seed, 0.0).wanted(batch)
        replies = [shard.__ray_call__.remote(_remember, size) for shard in actors]
        ray.get(replies)
        steps, empty = [], []
        for step in range(1, _WARM_UP + _TIMED + 1):
            observation = _observation(ids, learner.states(ids))
            began = time.perf_counter()
            coordinator.observe(step, observation)
            ids = coordinator.select(batch).ids
            middle = time.perf_counter()
            ids = np.sort(ids)
            between = time.perf_counter()
            ray.get([shard.__ray_call__.remote(_reply, observation) for shard in actors])
            steps.append(1e3 * (middle - began))
            empty.append(1e3 * (time.perf_counter() - between))
    steps, empty = steps[_WARM_UP:], empty[_WARM_UP:]
    ratio = float(np.median(np.divide(steps, empty)))
    return ShardsRow(shards, prompts, float(np.median(steps)), float(np.median(empty)), ratio)


def _remember(shard: Any, size: int) -> None:
    """Runs in the shard: keep a proposal, to send it back when called for nothing."""
    shard.reply = shard.propose(BeliefVersion(1, 0, None), size, [np.empty(0, dtype=np.int64)])


def _reply(shard: Any, observation: Observation) -> Any:
    return shard.reply


def _observation(ids: np.ndarray, states: np.ndarray) -> Observation:
    counts = np.zeros(len(ids), dtype=np.int16)
    return Observation(ids, states.astype(np.int8), counts, counts)
