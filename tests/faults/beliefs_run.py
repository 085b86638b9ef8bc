"""A run of beliefs alone, over real shards, with checkpoints: no engine, no learner."""

import numpy as np

from actors.belief_shard import BeliefVersion
from actors.coordinator import Coordinator
from actors.managed_actor import RestartTracker
from cluster.placement import Placement, plan
from dps_ray import BeliefStore
from dps_ray.beliefs.states import Observation
from dps_ray.config import settings
from dps_ray.durable import (
    Manifest,
    Segment,
    Storage,
    checkpoint_folder,
    claim_epoch,
    commit,
    read_shard,
    reshard,
)
from dps_ray.selection.pooled import number_within
from dps_ray.selection.population import Population

IDS = np.sort(np.random.default_rng(7).choice(2**62, size=300, replace=False))

CLUSTERS = number_within(IDS, IDS % 5, seed=0)


def seen(step, ids):
    ids = np.sort(ids)
    states = np.array([np.random.default_rng([step, i]).integers(3) for i in ids], dtype=np.int8)
    # None, half, all of eight responses.
    return Observation(ids, states, (4 * states).astype(np.int16), np.full(len(ids), 8, np.int16))


def config_of(folder, shards, *overrides):
    return settings.load(
        None,
        [
            f"folder={folder}",
            "loop.batch_size=16",
            f"resources.beliefs.shards={shards}",
            *overrides,
        ],
    )


class BeliefsRun:
    def __init__(self, folder, shards=2, *overrides, base=None, recoveries=None, population=None):
        self.storage = Storage.at(folder)
        self.epoch = claim_epoch(self.storage)
        self.base = base
        self.recoveries = recoveries or RestartTracker()
        self.shards = shards
        config = config_of(folder, shards, *overrides)
        place = Placement(plan(config)).beliefs
        pooled = config.method == "dps_pooled"
        self.coordinator = Coordinator(
            config,
            self.storage,
            population or Population(IDS, CLUSTERS if pooled else None),
            self.recoveries,
            place,
        )
        start = 0 if base is None else base.step
        self.coordinator.rewind(BeliefVersion(self.epoch, start, base and base.name))

    def steps(self, *steps):
        """Observe these; the batches that were selected."""
        batches = []
        for step in steps:
            batches.append(self.coordinator.select(16))
            self.coordinator.observe(step, seen(step, batches[-1].ids))
        return batches

    def save(self, step, meanwhile=lambda: None):
        """The manifest of a checkpoint of this step; its files are written while that happens."""
        folder = checkpoint_folder(self.epoch, step)
        pending = self.coordinator.save(folder)
        meanwhile()
        before = () if self.base is None else self.base.lineage
        after = 0 if self.base is None else self.base.step
        manifest = Manifest(
            epoch=self.epoch,
            step=step,
            files=tuple(pending()),
            lineage=(*before, Segment(self.epoch, after)),
            dataset_fingerprint="",
            config_hash="",
            weight_version=step,
            belief_shards=self.shards,
            learner_ranks=1,
            zero_stage=1,
            deepspeed_tag="",
        )
        commit(self.storage, manifest)
        self.coordinator.committed(manifest.name)
        return manifest

    def beliefs(self, step):
        """All of them, as one snapshot."""
        return beliefs_in(self.storage, self.save(step))


def beliefs_in(storage, manifest):
    shards = range(manifest.belief_shards)
    return reshard([read_shard(storage, manifest, i, len(shards)) for i in shards], 1)[0]


def undisturbed(*steps, store=None):
    """One store in this process, DPS's as a rule: what it selected, and its state."""
    store, batches = store or BeliefStore(IDS), []
    for step in steps:
        batches.append(store.select(16))
        store.observe(seen(step, batches[-1].ids))
    return batches, reshard([store.snapshot()], 1)[0]


def assert_equal(ours, theirs):
    (batches, beliefs), (expected, state) = ours, theirs
    for mine, other in zip(batches, expected, strict=True):
        np.testing.assert_array_equal(mine.ids, other.ids)
        np.testing.assert_array_equal(mine.predicted, other.predicted)
    for name, value in state.items():
        np.testing.assert_array_equal(beliefs[name], value, err_msg=name)
