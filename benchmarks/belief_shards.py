"""What a step of the beliefs costs through Ray, beside an empty call to the same actors.

The empty call carries the same observation to every shard and the same selection back, and does nothing in
between: what is left of the ratio is the beliefs' own work and the merging of the proposals.
"""

import tempfile
import time
from typing import Any, NamedTuple

import numpy as np
import ray

from actors.coordinator import Coordinator
from benchmarks.belief_methods import DriftingLearner
from dps_ray import hashing, settings
from dps_ray.states import Observation


class ShardsRow(NamedTuple):
    """One number of shards. Milliseconds are medians over the timed steps."""

    shards: int
    prompts: int
    milliseconds: float  # observe a batch and select the next, through the coordinator
    empty_milliseconds: float  # an empty call to all shards, with the same payload
    ratio: float  # median of step over empty call, pair by pair


def through_ray(
    shards: int, prompts: int, batch: int, *, warm_up: int = 60, timed: int = 60
) -> ShardsRow:
    """Drive real shards with a drifting simulated learner; steps and empty calls in turns."""
    with tempfile.TemporaryDirectory() as folder:
        config = settings.load(
            None,
            [
                f"folder={folder}",
                f"loop.batch_size={batch}",
                f"resources.beliefs.shards={shards}",
                # A step takes its proposals as they come; no other work is timed.
                "timeouts.beliefs=600",
            ],
        )
        coordinator = Coordinator(config, np.arange(prompts))
        learner = DriftingLearner(0)
        ids = np.sort(coordinator.select(batch).ids)
        steps, empty = [], []
        for step in range(warm_up + timed):
            observation = _observation(ids, learner.states(ids))
            parts = _split(observation, shards)
            began = time.perf_counter()
            coordinator.observe(observation)
            selection = coordinator.select(batch)
            middle = time.perf_counter()
            ids = np.sort(selection.ids)
            if step == 0:
                _keep_replies(coordinator, batch)
            between = time.perf_counter()
            ray.get(
                [
                    shard.__ray_call__.remote(_reply, part)
                    for shard, part in zip(coordinator.shards, parts, strict=True)
                ]
            )
            if step >= warm_up:
                steps.append(1e3 * (middle - began))
                empty.append(1e3 * (time.perf_counter() - between))
        for shard in coordinator.shards:
            ray.kill(shard)
    return ShardsRow(
        shards,
        prompts,
        float(np.median(steps)),
        float(np.median(empty)),
        float(np.median(np.divide(steps, empty))),
    )


def _keep_replies(coordinator: Coordinator, batch: int) -> None:
    """Have each shard remember a proposal, to send it back when it is called for nothing."""
    ray.get([shard.__ray_call__.remote(_remember, batch) for shard in coordinator.shards])


def _remember(shard: Any, batch: int) -> None:
    shard.reply = shard.propose(batch, np.empty(0, dtype=np.int64))


def _reply(shard: Any, observation: Observation) -> Any:
    return shard.reply


def _observation(ids: np.ndarray, states: np.ndarray) -> Observation:
    counts = np.zeros(len(ids), dtype=np.int16)
    return Observation(ids, states.astype(np.int8), counts, counts)


def _split(observation: Observation, shards: int) -> list[Observation]:
    homes = hashing.shards(observation.ids, shards)
    return [
        Observation(*(column[homes == index] for column in observation)) for index in range(shards)
    ]
