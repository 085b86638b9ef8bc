import io

import numpy as np
import pytest

from dps_ray import BeliefStore, UniformSelector
from dps_ray.beliefs.states import Observation
from dps_ray.selection.clusters import number_within
from dps_ray.selection.coverage import CoverageLimits
from dps_ray.selection.methods import RateHMM
from dps_ray.selection.pooled import PooledStore

IDS = np.random.default_rng(0).choice(10**9, 3000, replace=False)


def through_a_file(snapshot):
    file = io.BytesIO()
    np.savez(file, **snapshot)
    file.seek(0)
    with np.load(file) as arrays:
        return dict(arrays)


def train(store, steps, first=0):
    """The batches of some steps, with outcomes that depend on the prompt and the step alone."""
    batches = []
    for step in range(first, first + steps):
        ids = store.select(40).ids
        store.observe(Observation(ids, (ids * 7 + ids // 13 * step) % 3))
        batches.append(ids)
    return np.array(batches)


MAKERS = {
    "decay 0.3": lambda ids: BeliefStore(ids, decay=0.3, seed=4),
    "progress": lambda ids: BeliefStore(ids, decay=0.7, prior="progress", entropy_weight=0.1),
    "decay 1": lambda ids: BeliefStore(ids, decay=1.0, prior="local", initial=[0.2, 0.3, 0.5]),
    "uniform": lambda ids: UniformSelector(ids, seed=4),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("steps", [0, 1, 150])
def test_going_on_from_a_snapshot_is_bit_equal_to_never_having_stopped(make, steps):
    store = make(IDS)
    train(store, steps)
    restored = make(IDS[::-1])
    restored.load_state(through_a_file(store.snapshot()))
    np.testing.assert_array_equal(train(restored, 150, steps), train(store, 150, steps))
    ours, theirs = restored.snapshot(), store.snapshot()
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert restored.metrics() == store.metrics()


def cluster_selector(ids):
    clusters = number_within(ids, ids % 3, 3)
    return PooledStore(ids, clusters, 3, observation="states", cluster_decay=0.8, max_uses=2)


@pytest.mark.parametrize(
    ("name", "make", "new"),
    [
        ("dps", lambda ids: CoverageLimits(BeliefStore(ids, seed=3, temperature=0.5), rest=2), []),
        ("dps_counts", lambda ids: RateHMM(ids, 3, decay=0.6, group_size=4), []),
        ("dps_pooled", cluster_selector, ["numbering", "aside_prompts"]),
    ],
)
def test_a_snapshot_that_an_earlier_version_took_is_gone_on_from(name, make, new):
    with np.load("tests/data/earlier/snapshots.npz") as arrays:
        taken = {key.partition("/")[2]: arrays[key] for key in arrays if key.startswith(f"{name}/")}
    selector = make(np.arange(60))
    expected = taken.pop("next")
    selector.load_state(taken)
    assert selector.select(8).ids.tolist() == expected.tolist()
    assert selector.snapshot().keys() == {*taken, *new}


def test_a_snapshot_is_a_copy():
    store = BeliefStore(IDS)
    train(store, 20)
    snapshot = store.snapshot()
    before = through_a_file(snapshot)
    train(store, 20, 20)
    for name, value in before.items():
        np.testing.assert_array_equal(snapshot[name], value, err_msg=name)


def test_its_size_goes_with_the_prompts_seen_and_not_with_the_pool():
    sizes = []
    for pool in (10_000, 300_000):
        store = BeliefStore(np.arange(pool), decay=0.5)
        train(store, 100)
        sizes.append(sum(np.asarray(value).nbytes for value in store.snapshot().values()))
    assert max(sizes) < 20_000


def test_the_index_of_a_store_may_stand_for_its_ids():
    store = BeliefStore(IDS, seed=3)
    train(store, 30)
    restored = BeliefStore(store.index, seed=3)
    restored.load_state(store.snapshot())
    assert restored.index is store.index
    np.testing.assert_array_equal(train(restored, 30, 30), train(store, 30, 30))


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_pool_that_lacks_a_prompt_of_the_snapshot_is_an_error(make):
    store = make(IDS)
    gone = train(store, 1)[0, 0]
    with pytest.raises(ValueError, match=f"id {gone} is not in the pool"):
        make(IDS[gone != IDS]).load_state(store.snapshot())


@pytest.mark.parametrize(
    "other",
    [
        BeliefStore(IDS, decay=0.5, seed=4),
        BeliefStore(IDS, decay=0.3, prior="local", seed=4),
        BeliefStore(IDS, decay=0.3, seed=5),
    ],
    ids=["decay", "prior", "seed"],
)
def test_a_snapshot_of_other_settings_is_refused(other):
    store = MAKERS["decay 0.3"](IDS)
    train(store, 1)
    with pytest.raises(
        ValueError, match=r"(?s)the snapshot was taken with .*make it with the same"
    ):
        other.load_state(store.snapshot())
