"""However the ids are split over stores, the bits are those of one store."""

import numpy as np
import pytest

from dps_ray import BeliefStore, UniformSelector, merge
from dps_ray.beliefs.states import Observation
from dps_ray.hashing import shards

IDS = np.random.default_rng(0).integers(-(2**62), 2**62, 400)
BATCH, STEPS = 24, 100


def run(make, homes, exclude_some=False, **arguments):
    """100 steps over stores that hold the ids of each home; all selections, and the stores."""
    stores = [make(IDS[homes == home]) for home in np.unique(homes)]
    rng = np.random.default_rng(1)
    home_of = {prompt: place for place, store in enumerate(stores) for prompt in store_ids(store)}
    selections, in_flight = [], np.empty(0, np.int64)
    for _ in range(STEPS):
        proposed = []
        for place, store in enumerate(stores):
            exclude = np.array([i for i in in_flight.tolist() if home_of[i] == place], np.int64)
            size = min(BATCH, len(store) - len(exclude))
            proposed.append(store.select(size, exclude=exclude, **arguments))
        batch = merge(proposed, min(BATCH, sum(len(each.ids) for each in proposed)))
        selections.append(batch)
        states = np.where(rng.random(len(batch.ids)) < 0.5, batch.ids % 3, rng.integers(0, 3))
        observed = rng.random(len(batch.ids)) < 0.9
        if exclude_some:
            in_flight = batch.ids[~observed]
        owners = np.array([home_of[i] for i in batch.ids.tolist()])
        for place, store in enumerate(stores):
            mine = observed & (owners == place)
            store.observe(Observation(batch.ids[mine][::-1], states[mine][::-1]))
    return selections, stores, home_of


def store_ids(store):
    return store.select(len(store)).ids.tolist()


SETTINGS = {
    "decay 0.7": ({"decay": 0.7}, {}),
    "decay 1": ({"decay": 1.0, "prior": "progress"}, {}),
    "entropy": ({"decay": 0.5, "entropy_weight": 0.2, "prior": "local"}, {}),
    "candidates": ({"decay": 0.7}, {"candidates": 0.3}),
    "in flight": ({"decay": 0.3, "prior": "stability"}, {"exclude_some": True}),
}


@pytest.fixture(scope="module")
def one_store():
    results = {}

    def of(name):
        if name not in results:
            settings, arguments = SETTINGS[name]
            make = lambda ids: BeliefStore(ids, seed=5, **settings)  # noqa: E731
            results[name] = run(make, np.zeros(len(IDS), int), **arguments)
        return results[name]

    return of


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("split", ["buckets", "uneven"])
def test_selections_beliefs_and_counts_are_bit_equal_for_any_split(name, count, split, one_store):
    settings, arguments = SETTINGS[name]
    homes = shards(IDS, count) if split == "buckets" else np.sort(IDS % 50 % count)
    selections, stores, home_of = run(
        lambda ids: BeliefStore(ids, seed=5, **settings), homes, **arguments
    )
    expected, (whole,), _ = one_store(name)
    for ours, theirs in zip(selections, expected, strict=True):
        for field, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(field, other)
    for place, store in enumerate(stores):
        mine = np.array([i for i in IDS.tolist() if home_of[i] == place])
        for ask in ("predicted", "transition_counts", "times_sampled"):
            np.testing.assert_array_equal(getattr(store, ask)(mine), getattr(whole, ask)(mine))


@pytest.mark.parametrize("count", [2, 7])
def test_uniform_selections_are_equal_for_any_split(count):
    expected, _, _ = run(lambda ids: UniformSelector(ids, seed=5), np.zeros(len(IDS), int))
    selections, _, _ = run(lambda ids: UniformSelector(ids, seed=5), shards(IDS, count))
    for ours, theirs in zip(selections, expected, strict=True):
        np.testing.assert_array_equal(ours.ids, theirs.ids)


def test_shards_may_be_empty():
    stores = [BeliefStore([]), BeliefStore([3, 4])]
    assert merge([store.select(len(store)) for store in stores], 2).ids.size == 2
    stores[0].observe(Observation([], []))
    assert stores[0].metrics()["beliefs/active_rows"] == 0
