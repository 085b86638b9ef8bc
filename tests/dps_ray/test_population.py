"""The prompts of a run: where an id stands, what is added to an observation, and how shards divide them."""

import numpy as np
import pytest

from dps_ray.beliefs.states import Observation
from dps_ray.hashing import shards
from dps_ray.selection import population
from dps_ray.selection.clusters import number_within
from dps_ray.selection.population import Population, number_by_source

IDS = np.sort(np.random.default_rng(0).choice(2**62, size=500, replace=False))
SOURCES = np.random.default_rng(1).integers(3, size=len(IDS)).astype(np.int16)
LABELS = IDS % 4


def test_rows_are_found_by_id_and_strangers_are_told_apart():
    people = Population(IDS)
    rows, found = people.find([IDS[3], IDS[3] + 1, IDS[-1], 2**62 + 5, IDS[0]])
    assert found.tolist() == [True, False, True, False, True]
    assert rows[found].tolist() == [3, 499, 0]
    with pytest.raises(ValueError, match="id 7 is not in the pool"):
        people.rows([7])


@pytest.mark.parametrize("count", [1, 2, 7])
def test_shards_hold_what_the_hash_says_in_the_order_of_ids(count, monkeypatch):
    monkeypatch.setattr(population, "_BLOCK", 64)  # several blocks
    clusters = number_by_source(IDS, LABELS, 5, SOURCES)
    people = Population(IDS, clusters, SOURCES, (1, 1, 2))
    homes = shards(IDS, count)
    for shard, portions in enumerate(people.split(count)):
        assert len(portions) == 3
        for source, portion in enumerate(portions):
            here = (homes == shard) & (source == SOURCES)
            np.testing.assert_array_equal(portion.ids, IDS[here])
            assert portion.pool == np.count_nonzero(source == SOURCES)
            # The clusters are those of a pool with this source alone.
            alone = number_within(IDS[source == SOURCES], LABELS[source == SOURCES], 5)
            expected = alone.take(homes[source == SOURCES] == shard)
            for ours, theirs in zip(portion.clusters, expected, strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_without_weights_all_prompts_are_one_source():
    clusters = number_within(IDS, LABELS, 5)
    for given in (Population(IDS, clusters), Population(IDS, clusters, SOURCES)):
        ((portion,),) = given.split(1)
        np.testing.assert_array_equal(portion.ids, IDS)
        np.testing.assert_array_equal(portion.clusters.ranks, clusters.ranks)
        assert (given.count, portion.pool) == (1, len(IDS))


def test_a_shard_without_prompts_is_a_shard():
    portions = list(Population(IDS[:1]).split(3))
    assert sorted(len(portion.ids) for (portion,) in portions) == [0, 0, 1]
    assert [len(portion.ids) for (portion,) in Population([]).split(2)] == [0, 0]


def test_an_observation_gets_clusters_ranks_and_sources():
    rows = np.array([2, 40, 41])
    seen = Observation(IDS[rows], np.array([0, 1, 2]))
    assert Population(IDS).describe(seen) is seen
    clusters = number_by_source(IDS, LABELS, 5, SOURCES)
    described = Population(IDS, clusters, SOURCES, (0.2, 0.3, 0.5)).describe(seen)
    assert described.clusters.tolist() == LABELS[rows].tolist()
    assert described.ranks.tolist() == clusters.ranks[rows].tolist()
    assert described.sources.tolist() == SOURCES[rows].tolist()
    with pytest.raises(ValueError, match="id 5 is not in the pool"):
        Population(IDS, number_within(IDS, LABELS, 5)).describe(Observation(np.array([5]), [1]))


def test_ids_are_not_copied():
    assert np.shares_memory(Population(IDS).ids, IDS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"ids": [1, 3, 2]}, "must be unique and ascending, and 3 comes before 2"),
        ({"ids": [1, 1]}, "must be unique and ascending, and 1 comes before 1"),
        (
            {"ids": [1, 2], "clusters": number_within([1], None, 0)},
            "2 ids came with the clusters of 1",
        ),
        ({"ids": [1, 2], "weights": (1, 1)}, "weights are given without sources"),
        (
            {"ids": [1, 2], "weights": (1, -1), "sources": [0, 1]},
            "each must be finite and 0 or more",
        ),
        ({"ids": [1, 2], "weights": (0, 0), "sources": [0, 1]}, "one of them above 0"),
        ({"ids": [1, 2], "weights": (1, 1), "sources": [0, 2]}, "source 2 has no weight"),
        ({"ids": [1, 2], "weights": (1, 1), "sources": [0]}, "sources must be 2 integers"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        Population(**arguments)
