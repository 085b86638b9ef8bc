import os

import numpy as np
import pytest

from dps_ray import BeliefStore
from dps_ray.beliefs.states import Observation, observation, observed
from dps_ray.durable import (
    Manifest,
    ObservationLog,
    Segment,
    Storage,
    committed,
    read_snapshot,
    write_snapshot,
)
from dps_ray.errors import CheckpointError

SEEN = observation([9, -4, 7], [[1, 1], [0, 1], [0, 0]])


@pytest.fixture
def storage(tmp_path):
    return Storage.at(tmp_path / "run")


@pytest.fixture
def log(storage):
    return ObservationLog(storage, epoch=7)


def assert_equal(ours, theirs):
    for mine, other in zip(ours, theirs, strict=True):
        if mine is None or other is None:
            assert mine is other
            continue
        assert mine.dtype == other.dtype
        np.testing.assert_array_equal(mine, other)


def test_an_observation_is_read_back_as_it_was(log, storage):
    log.append(42, SEEN)
    assert storage.list("log") == ["log/e0007/step=00000042.arrow"]
    assert_equal(log.read(42), SEEN)


def test_the_clusters_of_prompts_are_read_back_with_them(log):
    found = SEEN._replace(clusters=np.array([4, 0, 2]))
    log.append(1, found)
    log.append(1, found)
    assert log.read(1).clusters.tolist() == [4, 0, 2]
    assert log.read(1).clusters.dtype == np.int32
    with pytest.raises(CheckpointError, match="another observation of step 1"):
        log.append(1, SEEN)


def test_the_sources_of_prompts_are_read_back_with_them_and_only_where_there_are_some(log):
    found = SEEN._replace(sources=np.array([1, 0, 1], np.int16))
    log.append(1, found)
    assert_equal(log.read(1), found)
    log.append(2, SEEN)
    assert log.read(2).sources is None


def test_a_step_that_observed_nothing_is_a_step(log):
    nothing = observation([], [])
    log.append(1, nothing)
    assert_equal(log.read(1), nothing)


def test_the_same_again_changes_nothing(log, storage):
    log.append(1, SEEN)
    before = storage.local("log/e0007/step=00000001.arrow").stat()
    log.append(1, SEEN)
    after = storage.local("log/e0007/step=00000001.arrow").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_another_observation_of_the_same_step_is_an_error(log):
    log.append(1, SEEN)
    other = SEEN._replace(states=np.array([2, 2, 2], np.int8))
    with pytest.raises(CheckpointError, match="holds another observation of step 1"):
        log.append(1, other)
    assert_equal(log.read(1), SEEN)


def test_an_observation_out_of_order_is_refused(log):
    with pytest.raises(ValueError, match="step 1 is not ascending by id"):
        log.append(1, SEEN.take(np.arange(3)[::-1]))


def test_a_step_that_is_not_there_is_missing(log):
    with pytest.raises(CheckpointError, match=r"step=00000005\.arrow is missing"):
        log.read(5)


def test_later_steps_come_in_order(log):
    for step in (11, 9, 10, 8):
        log.append(step, SEEN._replace(ids=SEEN.ids + step))
    later = list(log.steps_after(8))
    assert [step for step, _ in later] == [9, 10, 11]
    for step, here in later:
        np.testing.assert_array_equal(here.ids, SEEN.ids + step)
    assert list(log.steps_after(11)) == []


@pytest.mark.parametrize(("after", "missing", "has"), [(7, 10, 11), (5, 6, 8)])
def test_a_gap_is_an_error(after, missing, has, log):
    for step in (8, 9, 11):
        log.append(step, SEEN)
    with pytest.raises(
        CheckpointError, match=f"log/e0007 lacks step {missing}, and has step {has}"
    ):
        list(log.steps_after(after))


def test_unfinished_files_are_no_steps(log, storage):
    storage.write("log/e0007/step=00000001.arrow.0a1b.part", b"hal")
    assert log.steps() == []


def test_logs_of_other_epochs_are_apart(log, storage):
    log.append(1, SEEN)
    assert ObservationLog(storage, 8).steps() == []


def test_rewards_are_read_back_where_they_were_told(log):
    seen = observed([9, -4], [1, 2], [4, 2], means=[0.25, 1 / 3], deviations=[0.5, 0.0])
    log.append(42, seen)
    assert_equal(log.read(42), seen)
    with pytest.raises(CheckpointError, match="holds another observation"):
        log.append(42, seen._replace(means=np.array([0.25, 0.3])))
    with pytest.raises(CheckpointError, match="holds another observation"):
        log.append(42, seen._replace(means=None, deviations=None))


def test_every_flipped_bit_is_noticed_or_harmless(log, storage):
    log.append(1, SEEN)
    path = storage.local("log/e0007/step=00000001.arrow")
    content = path.read_bytes()
    noticed = 0
    for place in range(len(content)):
        altered = bytearray(content)
        altered[place] ^= 1 << place % 8
        path.write_bytes(altered)
        try:
            observed = log.read(1)
        except CheckpointError:
            noticed += 1
        else:
            assert_equal(observed, SEEN)
    assert noticed > 100


@pytest.mark.parametrize("share", [0, 0.3, 0.9])
def test_a_truncated_log_file_is_refused(share, log, storage):
    log.append(1, SEEN)
    path = storage.local("log/e0007/step=00000001.arrow")
    os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(CheckpointError, match="was altered or truncated"):
        log.read(1)


def test_a_hole_of_4_kib_is_refused(log, storage):
    many = observation(range(4000), [[1, 0]] * 4000)
    log.append(1, many)
    path = storage.local("log/e0007/step=00000001.arrow")
    content = bytearray(path.read_bytes())
    content[8192:12288] = bytes(4096)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="its checksum is wrong"):
        log.read(1)


def test_a_file_of_another_step_is_refused(log, storage):
    log.append(1, SEEN)
    storage.write("log/e0007/step=00000002.arrow", storage.content("log/e0007/step=00000001.arrow"))
    with pytest.raises(CheckpointError, match=r"step=00000002\.arrow was altered"):
        log.read(2)


# --- replay ---------------------------------------------------------------------------------------

IDS = np.random.default_rng(0).choice(10**9, 1000, replace=False)


def outcome(ids, step, salt=0):
    return observation(
        ids, [[i * 7 + i // 13 * (step + salt) & 1, i >> 3 & 1] for i in ids.tolist()]
    )


def train(store, log, steps, salt=0):
    for step in steps:
        seen = outcome(store.select(40).ids, step, salt)
        log.append(step, seen)
        store.observe(Observation(seen.ids, seen.states))


def assert_same_state(ours, theirs):
    ours, theirs = ours.snapshot(), theirs.snapshot()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


def test_a_snapshot_and_the_log_after_it_give_the_store_that_was_lost(log, storage):
    store = BeliefStore(IDS)
    train(store, log, range(1, 31))
    stored = write_snapshot(storage, "ckpt/beliefs.arrow", store.snapshot())
    train(store, log, range(31, 61))

    again = BeliefStore(IDS)
    again.load_state(read_snapshot(storage, stored))
    for _, seen in log.steps_after(30):
        again.observe(Observation(seen.ids, seen.states))
    assert_same_state(again, store)
    np.testing.assert_array_equal(again.select(100).ids, store.select(100).ids)


def test_the_committed_history_leaves_out_what_was_rolled_back(storage):
    store = BeliefStore(IDS)
    train(store, ObservationLog(storage, 1), range(1, 21))
    snapshot = store.snapshot()
    train(store, ObservationLog(storage, 1), range(21, 31))  # lost: its driver died before a commit

    store = BeliefStore(IDS)
    store.load_state(snapshot)
    train(store, ObservationLog(storage, 2), range(21, 26), salt=1)
    manifest = Manifest(
        epoch=2,
        step=25,
        files=(),
        lineage=(Segment(1, 0), Segment(2, 20)),
        dataset_fingerprint="",
        config_hash="",
        weight_version=25,
        belief_shards=1,
        learner_ranks=1,
        zero_stage=1,
        deepspeed_tag="",
    )

    again, steps = BeliefStore(IDS), []
    for step, seen in committed(storage, manifest):
        again.observe(Observation(seen.ids, seen.states))
        steps.append(step)
    assert steps == list(range(1, 26))
    assert_same_state(again, store)
