"""The selectors of a run's shards in this process: what the coordinator does, without Ray."""

import numpy as np

from actors.belief_shard import parts
from dps_ray.beliefs.states import Observation, states_of
from dps_ray.config import settings
from dps_ray.durable import Storage, read_snapshot, reshard, shard_file, write_snapshot
from dps_ray.hashing import hash_ids, hash_key, shards
from dps_ray.selection.methods import BUILT_IN
from dps_ray.selection.mixture import Mixture
from dps_ray.selection.population import Population, number_by_source
from dps_ray.selection.proposals import Mix, Proposals

BATCH, K = 16, 8
NONE = np.empty(0, np.int64)

IDS = np.sort(np.random.default_rng(3).choice(2**62, size=400, replace=False))
WEIGHTS = (0.5, 0.2, 0.3)
SOURCES = np.random.default_rng(4).integers(len(WEIGHTS), size=len(IDS)).astype(np.int16)

# Every method that a configuration can name, and every kind of ranking.
METHODS = {name: [f"method={name}"] for name in BUILT_IN}
METHODS["offline_filter"].append("selector.start=evaluations")
VARIANTS = METHODS | {
    "dps, counts": ["method=dps", "selector.observation=counts"],
    "dps, rewards": ["method=dps", "selector.observation=rewards", "states.rule=variation"],
    "dps, drawn": ["method=dps", "selector.temperature=0.5"],
    "dps, a share of the pool": ["method=dps", "selector.candidates=0.3"],
    "dps, resting": ["method=dps", "selector.rest=3", "selector.max_uses=2"],
    "dps, half fresh": ["method=dps", "selector.fresh_share=0.5"],
    "dps, variance": ["method=dps", "selector.score=variance"],
    "dps, batch": ["method=dps", "selector.score=batch"],
    "dps, batch, nothing forgotten": ["method=dps", "selector.score=batch", "selector.decay=1"],
    "dps, counts, batch": [
        "method=dps",
        "selector.observation=counts",
        "selector.score=batch",
        "selector.rest=3",
    ],
    "dps_pooled, batch": ["method=dps_pooled", "selector.score=batch"],
    "dps_pooled, states, surprise": [
        "method=dps_pooled",
        "selector.observation=states",
        "selector.score=surprise",
    ],
    "dps_pooled, states": ["method=dps_pooled", "selector.observation=states"],
    "dps_pooled, two uses": ["method=dps_pooled", "selector.max_uses=2", "selector.rest=2"],
    "uniform, used once": ["method=uniform", "selector.max_uses=1"],
    "variance_ema, drawn": ["method=variance_ema", "selector.temperature=0.3"],
}


def config_of(overrides):
    return settings.load(None, ["folder=/nowhere", f"loop.batch_size={BATCH}", *overrides])


def population_of(config, weights=WEIGHTS, ids=IDS, sources=SOURCES):
    """These prompts, with a cluster for each of five kinds."""
    if weights is None:
        sources = np.zeros(len(ids), np.int16)
    clusters = number_by_source(ids, ids % 5, config.seed, sources)
    return Population(
        ids, clusters if config.method == "dps_pooled" else None, sources, weights or (1.0,)
    )


def found_of(ids, step):
    """What prompts show at this step: a third are never solved, a third always, the others by chance."""
    ids = np.sort(ids)
    luck = (hash_ids(ids, hash_key(step)) >> np.uint64(11)).astype(np.int64) % (K + 1)
    right = np.select([ids % 3 == 0, ids % 3 == 1], [0, K], luck).astype(np.int16)
    share = right / K
    scored = np.full(len(ids), K, np.int16)
    return Observation(
        ids, states_of(right, scored), right, scored, means=share, deviations=share * (1 - share)
    )


def failed(ids, step):
    """Which of these prompts give no observation at this step: bool (n,)."""
    return hash_ids(ids, hash_key(step, 1)) % np.uint64(10) == 0


class Shards:
    found_of = staticmethod(found_of)

    def __init__(self, config, population, count, selectors=None, evidence=None):
        self.config, self.population, self.count = config, population, count
        self.mix = Mix(population.weights, config.seed, config.selector.fresh_share)
        self.step = 0
        self.mixtures: list[Mixture] = selectors or [
            part.selector() for part in parts(config, population, count)
        ]
        if evidence is not None:
            evidence = evidence._replace(found=population.describe(evidence.found))
            for part, mixture in zip(
                parts(config, population, count, evidence), self.mixtures, strict=True
            ):
                part.begin(mixture)

    def proposed(self, size, excluded=NONE):
        wanted = self.mix.wanted(size)
        homes = shards(excluded, self.count)
        sources = self.population.sources(self.population.rows(excluded))
        return Proposals(
            wanted,
            excluded,
            [
                mixture.select(
                    wanted,
                    [
                        excluded[(homes == shard) & (sources == source)]
                        for source in range(self.population.count)
                    ],
                )
                for shard, mixture in enumerate(self.mixtures)
            ],
        )

    def select(self, size, excluded=NONE):
        """Asks all shards."""
        return self.proposed(size, excluded).best(size, excluded, self.mix, self.step)

    def observe(self, found):
        whole = self.population.describe(found)
        homes = shards(whole.ids, self.count)
        for shard, mixture in enumerate(self.mixtures):
            mixture.observe(whole.take(homes == shard), whole)
        self.step += 1

    def run(self, steps):
        """The batches of so many steps; a tenth of each batch fails and is not observed."""
        batches = []
        for _ in range(steps):
            batch = self.select(BATCH)
            batches.append(batch)
            done = batch.ids[~failed(batch.ids, self.step)]
            self.observe(self.found_of(done, self.step))
        return batches

    def resumed(self, folder, count, population=None):
        """The run with another number of shards, from files."""
        storage = Storage.at(folder)
        snapshots = [
            read_snapshot(storage, write_snapshot(storage, shard_file(i, self.count), m.snapshot()))
            for i, m in enumerate(self.mixtures)
        ]
        other = type(self)(self.config, population or self.population, count)
        for mixture, snapshot in zip(other.mixtures, reshard(snapshots, count), strict=True):
            mixture.load_state(snapshot)
        other.step = self.step
        return other


def assert_equal(ours, theirs):
    """Selections, field by field and bit by bit."""
    for name, mine, other in zip(ours._fields, ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, other, err_msg=name)
