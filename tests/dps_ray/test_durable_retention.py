import os

import pytest

from dps_ray.beliefs.states import observation
from dps_ray.durable import (
    Manifest,
    ObservationLog,
    Segment,
    Storage,
    best,
    checkpoint_folder,
    claim_epoch,
    commit,
    load,
    manifests,
    prune,
    verify,
)
from dps_ray.errors import CheckpointError


@pytest.fixture
def storage(tmp_path):
    return Storage.at(tmp_path / "run")


def checkpoint(storage, epoch, step, shared=(), milestone=False, accuracy=None, lineage=None):
    """A checkpoint of one new file, and of `shared` ones written before."""
    new = storage.write(
        f"{checkpoint_folder(epoch, step)}/beliefs.arrow", f"{epoch} {step}".encode()
    )
    manifest = Manifest(
        epoch=epoch,
        step=step,
        files=(new, *shared),
        lineage=lineage or (Segment(epoch, 0),),
        dataset_fingerprint="f00d",
        config_hash="c0de",
        weight_version=step,
        belief_shards=1,
        learner_ranks=1,
        zero_stage=1,
        deepspeed_tag="",
        milestone=milestone,
        accuracy=accuracy,
    )
    commit(storage, manifest)
    return manifest


def test_the_newest_and_the_milestones_stay(storage):
    claim_epoch(storage)
    for step in range(10, 60, 10):
        checkpoint(storage, 1, step, milestone=step == 20)
    gone = prune(storage, keep=2)
    assert manifests(storage) == ["e0001.00000050", "e0001.00000040", "e0001.00000020"]
    assert storage.list("ckpt") == [
        f"ckpt/e0001/step={step:08}/beliefs.arrow" for step in (20, 40, 50)
    ]
    assert len(gone) == 4


def test_the_most_accurate_stays_until_a_better_one_comes(storage):
    claim_epoch(storage)
    kept = []
    for step, accuracy in zip(range(10, 70, 10), (0.3, 0.5, None, 0.4, 0.5, 0.6), strict=True):
        checkpoint(storage, 1, step, accuracy=accuracy)
        prune(storage, keep=1, keep_best=True)
        kept.append([int(name[-2:]) for name in manifests(storage)])
    # Of equals the earlier: the later one was trained for longer to no effect.
    assert kept == [[10], [20], [30, 20], [40, 20], [50, 20], [60]]
    for name in manifests(storage):
        verify(storage, load(storage, name))


def test_without_being_asked_for_the_most_accurate_goes_as_others_do(storage):
    claim_epoch(storage)
    checkpoint(storage, 1, 10, accuracy=0.9)
    checkpoint(storage, 1, 20, accuracy=0.1)
    prune(storage, keep=1)
    assert manifests(storage) == ["e0001.00000020"]


def test_what_a_run_went_back_from_is_not_its_best(storage):
    claim_epoch(storage)
    for step, accuracy in ((10, 0.3), (20, 0.2), (30, 0.9)):
        checkpoint(storage, 1, step, accuracy=accuracy)
    claim_epoch(storage)
    lineage = (Segment(1, 0), Segment(2, 20))  # the checkpoint of step 30 was not taken up
    for step in (30, 40):
        newest = checkpoint(storage, 2, step, accuracy=0.1, lineage=lineage)
    assert best([load(storage, name) for name in manifests(storage)], newest.lineage).step == 10
    prune(storage, keep=2, keep_best=True)
    assert manifests(storage) == ["e0002.00000040", "e0002.00000030", "e0001.00000010"]


def test_without_an_evaluation_there_is_no_best(storage):
    claim_epoch(storage)
    newest = checkpoint(storage, 1, 10)
    assert best([newest], newest.lineage) is None
    assert best([], newest.lineage) is None


def test_what_a_kept_manifest_names_stays_whichever_checkpoint_wrote_it(storage):
    claim_epoch(storage)
    old = checkpoint(storage, 1, 10)
    checkpoint(storage, 1, 20)
    checkpoint(storage, 1, 30, shared=old.files)
    prune(storage, keep=1)
    assert manifests(storage) == ["e0001.00000030"]
    verify(storage, load(storage, "e0001.00000030"))
    assert not storage.exists("ckpt/e0001/step=00000020/beliefs.arrow")


def test_pruning_again_deletes_nothing(storage):
    claim_epoch(storage)
    for step in (10, 20, 30):
        checkpoint(storage, 1, step)
    prune(storage, keep=1)
    assert prune(storage, keep=1) == []
    assert prune(Storage.at(storage.local("elsewhere")), keep=1) == []


def test_leftovers_of_failed_checkpoints_go_once_a_newer_one_is_committed(storage):
    claim_epoch(storage)
    failed = f"{checkpoint_folder(1, 20)}/beliefs.arrow"
    half = f"{checkpoint_folder(1, 20)}/learner.bin.0a1b.part"
    storage.write(failed, b"its manifest was never written")
    storage.write(half, b"hal")
    checkpoint(storage, 1, 10)
    assert prune(storage, keep=1) == []
    checkpoint(storage, 1, 30)
    assert {failed, half} <= set(prune(storage, keep=5))
    assert manifests(storage) == ["e0001.00000030", "e0001.00000010"]


def test_a_checkpoint_in_the_making_is_left_alone(storage):
    claim_epoch(storage)
    checkpoint(storage, 1, 10)
    ours = storage.write(f"{checkpoint_folder(1, 20)}/beliefs.arrow", b"being written")
    theirs = storage.write(f"{checkpoint_folder(2, 10)}/beliefs.arrow.0a.part", b"being written")
    prune(storage, keep=1)
    storage.verify(ours)
    storage.verify(theirs)


def test_unfinished_files_go_with_their_epoch_and_logs_stay(storage):
    claim_epoch(storage)
    ObservationLog(storage, 1).append(1, observation([3, 5], [[0, 1], [1, 1]]))
    names = ["log/e0001/step=00000002.arrow.0a.part", "manifests/e0001.00000010.json.0a.part"]
    for name in [*names, "log/e0002/step=00000001.arrow.0a.part"]:
        storage.write(name, b"hal")
    claim_epoch(storage)
    checkpoint(storage, 2, 10)
    assert sorted(prune(storage, keep=1)) == names
    assert storage.list("log") == [
        "log/e0001/step=00000001.arrow",
        "log/e0002/step=00000001.arrow.0a.part",
    ]


def test_files_that_are_no_checkpoints_stay(storage):
    claim_epoch(storage)
    for name in ("ckpt/notes.txt", "ckpt/e0001/notes.txt", "manifests/readme.txt"):
        storage.write(name, b"mine")
    checkpoint(storage, 1, 10)
    assert prune(storage, keep=1) == []


def test_a_damaged_manifest_is_left_with_its_files_and_counts_for_nothing(storage):
    claim_epoch(storage)
    for step in (10, 20, 30):
        checkpoint(storage, 1, step)
    os.truncate(storage.local("manifests/e0001.00000020.json"), 50)
    assert prune(storage, keep=2) == []
    checkpoint(storage, 1, 40)
    prune(storage, keep=2)
    assert manifests(storage) == ["e0001.00000040", "e0001.00000030", "e0001.00000020"]
    assert storage.exists("ckpt/e0001/step=00000020/beliefs.arrow")


def test_a_driver_that_lost_the_run_deletes_nothing(storage):
    claim_epoch(storage)
    for step in (10, 20):
        checkpoint(storage, 1, step)
    claim_epoch(storage)
    with pytest.raises(CheckpointError, match="epoch 2 was claimed by another driver"):
        prune(storage, keep=1)
    assert len(manifests(storage)) == 2


def test_a_manifest_goes_before_its_files(storage):
    claim_epoch(storage)
    for step in (10, 20):
        checkpoint(storage, 1, step)
    assert prune(storage, keep=1) == [
        "manifests/e0001.00000010.json",
        "ckpt/e0001/step=00000010/beliefs.arrow",
    ]


def test_keeping_none_is_refused(storage):
    with pytest.raises(ValueError, match="at least the newest checkpoint must be kept"):
        prune(storage, keep=0)
