import numpy as np
import pytest

from dps_ray import BeliefStore, UniformSelector, merge
from dps_ray.beliefs.states import Observation
from dps_ray.durable import Storage, read_snapshot, reshard, shard_file, write_snapshot
from dps_ray.errors import CheckpointError
from dps_ray.hashing import shards

IDS = np.random.default_rng(0).integers(-(2**62), 2**62, 1500)
BATCH = 48

MAKERS = {
    "decay 0.3": lambda ids: BeliefStore(ids, decay=0.3, seed=4),
    "progress": lambda ids: BeliefStore(ids, decay=0.7, prior="progress", entropy_weight=0.1),
    "decay 1": lambda ids: BeliefStore(ids, decay=1.0, prior="local", initial=[0.2, 0.3, 0.5]),
    "uniform": lambda ids: UniformSelector(ids, seed=4),
}


@pytest.fixture
def storage(tmp_path):
    return Storage.at(tmp_path / "run")


def split(make, count):
    homes = shards(IDS, count)
    return [make(IDS[homes == shard]) for shard in range(count)]


def train(selectors, steps):
    """The batches of these steps, with outcomes that depend on prompt and step alone."""
    batches = []
    for step in steps:
        batch = merge([s.select(min(BATCH, len(s))) for s in selectors], BATCH)
        homes = shards(batch.ids, len(selectors))
        states = (batch.ids // 7 + batch.ids // 13 * step) % 3
        for shard, selector in enumerate(selectors):
            selector.observe(Observation(batch.ids[homes == shard], states[homes == shard]))
        batches.append(batch)
    return batches


def through_files(storage, folder, snapshots):
    names = [shard_file(index, len(snapshots)) for index in range(len(snapshots))]
    stored = [
        write_snapshot(storage, f"{folder}/{name}", snapshot)
        for name, snapshot in zip(names, snapshots, strict=True)
    ]
    return [read_snapshot(storage, file) for file in stored]


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("steps", [0, 1, 60])
def test_a_snapshot_is_read_back_bit_for_bit(make, steps, storage):
    store = make(IDS)
    train([store], range(steps))
    (ours,), theirs = through_files(storage, "ckpt", [store.snapshot()]), store.snapshot()
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert type(ours[name]) is type(value), name
        if isinstance(value, np.ndarray):
            assert (ours[name].dtype, ours[name].shape) == (value.dtype, value.shape), name
            assert ours[name].tobytes() == value.tobytes(), name
        else:
            assert ours[name] == value


def test_odd_values_survive(storage):
    odd = {
        "numbers": np.array([[np.nan, -0.0, np.inf], [5e-324, 1e308, -np.inf]]),
        "ties": np.array([0, 2**64 - 1], np.uint64),
        "flags": np.array([True, False, True]),
        "nothing": np.empty((15, 0)),
        "point": np.array(3.5),
        "transposed": np.arange(6).reshape(2, 3).T,
        "seed": 2**70,
        "decay": 0.1 + 0.2,
        "name": "dps",
        "is_new": True,
    }
    (read,) = through_files(storage, "ckpt", [odd])
    assert read.keys() == odd.keys()
    for name, value in odd.items():
        if isinstance(value, np.ndarray):
            assert (read[name].dtype, read[name].shape) == (value.dtype, value.shape), name
            assert read[name].tobytes() == value.tobytes(), name
        else:
            assert read[name] == value


def test_a_snapshot_file_knows_how_many_prompts_are_in_it(storage):
    store = BeliefStore(IDS)
    train([store], range(3))
    stored = write_snapshot(storage, "beliefs.arrow", store.snapshot())
    assert stored.rows == len(np.unique(store.snapshot()["seen_ids"])) > 0


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_four_shards_then_eight_then_three_then_one_are_bit_equal_to_never_having_stopped(
    make, storage
):
    whole, selectors, done = make(IDS), split(make, 4), 0
    for count in (4, 8, 3, 1):
        snapshots = through_files(storage, f"ckpt/{done}", [s.snapshot() for s in selectors])
        selectors = split(make, count)
        for selector, snapshot in zip(selectors, reshard(snapshots, count), strict=True):
            selector.load_state(snapshot)
        steps = range(done, done := done + 25)
        for ours, theirs in zip(train(selectors, steps), train([whole], steps), strict=True):
            for mine, other in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(mine, other)
    for name, value in whole.snapshot().items():
        np.testing.assert_array_equal(selectors[0].snapshot()[name], value, err_msg=name)


def test_resharding_does_not_depend_on_how_many_shards_there_were(storage):
    results = []
    for count in (1, 2, 7):
        selectors = split(MAKERS["progress"], count)
        train(selectors, range(30))
        results.append(reshard([s.snapshot() for s in selectors][::-1], 5))
    for ours in results[1:]:
        for mine, theirs in zip(ours, results[0], strict=True):
            for name, value in theirs.items():
                np.testing.assert_array_equal(mine[name], value, err_msg=name)


def test_snapshots_of_different_steps_do_not_fit_together():
    selectors = split(MAKERS["decay 0.3"], 2)
    train(selectors, range(3))
    snapshots = [s.snapshot() for s in selectors]
    selectors[1].observe(Observation([], []))
    with pytest.raises(
        CheckpointError, match="shards 0 and 1 are not of one run and step: their step is 3 and 4"
    ):
        reshard([snapshots[0], selectors[1].snapshot()], 2)


def test_snapshots_of_different_selectors_do_not_fit_together():
    snapshots = [split(MAKERS[name], 1)[0].snapshot() for name in ("uniform", "progress")]
    with pytest.raises(CheckpointError, match="shard 1 is of another kind of selector"):
        reshard(snapshots, 2)


def test_a_truncated_snapshot_is_refused(storage):
    stored = write_snapshot(storage, "beliefs.arrow", BeliefStore(IDS).snapshot())
    path = storage.local("beliefs.arrow")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=r"beliefs\.arrow is truncated"):
        read_snapshot(storage, stored)
