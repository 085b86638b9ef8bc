import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from pyarrow import fs

from dps_ray.durable import (
    Manifest,
    Segment,
    Storage,
    check_owner,
    checkpoint_folder,
    claim_epoch,
    commit,
    load,
    manifests,
    newest_valid,
)
from dps_ray.errors import CheckpointError


@pytest.fixture
def storage(tmp_path):
    return Storage.at(tmp_path / "run")


def checkpoint(storage, epoch, step, **fields):
    """Two files and the manifest that makes a checkpoint of them."""
    folder = checkpoint_folder(epoch, step)
    files = [
        replace(storage.write(f"{folder}/beliefs.arrow", b"beliefs" * 1000), rows=1000),
        storage.write(f"{folder}/learner/model.bin", b"weights" * 1000),
    ]
    manifest = Manifest(
        epoch=epoch,
        step=step,
        files=tuple(files),
        lineage=(Segment(epoch, 0),),
        dataset_fingerprint="f00d",
        config_hash="c0de",
        weight_version=step,
        belief_shards=1,
        learner_ranks=2,
        zero_stage=1,
        deepspeed_tag=f"global_step{step}",
        **fields,
    )
    commit(storage, manifest)
    return manifest


def refusals(storage):
    told = []
    return newest_valid(storage, told.append), told


# --- epochs ---------------------------------------------------------------------------------------


def test_each_driver_gets_the_next_epoch(storage):
    assert [claim_epoch(storage) for _ in range(3)] == [1, 2, 3]


def test_drivers_that_race_get_different_epochs(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        for run in range(12):  # the first claims also race to make the folders
            storage = Storage.at(tmp_path / f"run{run}")
            epochs = list(pool.map(claim_epoch, [storage] * 16))
            assert sorted(epochs) == list(range(1, 17))


def test_epochs_are_claimed_in_an_object_store_too():
    bucket = Storage("mock://bucket", fs.SubTreeFileSystem("bucket", fs._MockFileSystem()), None)
    assert [claim_epoch(bucket) for _ in range(3)] == [1, 2, 3]
    check_owner(bucket, 3)
    with pytest.raises(CheckpointError, match="epoch 3 was claimed by another driver"):
        check_owner(bucket, 2)


def test_the_first_driver_stops_at_its_next_commit_when_a_second_has_claimed_the_run(storage):
    first = claim_epoch(storage)
    checkpoint(storage, first, 10)
    second = claim_epoch(storage)
    with pytest.raises(CheckpointError, match=r"epoch 2 was claimed by another driver \(.*process"):
        checkpoint(storage, first, 20)
    assert manifests(storage) == ["e0001.00000010"]
    checkpoint(storage, second, 15)


# --- committing and loading -----------------------------------------------------------------------


def test_a_manifest_is_loaded_as_it_was_committed(storage):
    manifest = checkpoint(storage, claim_epoch(storage), 40, milestone=True)
    assert load(storage, manifest.name) == manifest
    assert manifest.files[0].rows == 1000


@pytest.mark.parametrize(
    "name", ["e0001.00000040", "e0001.00000040.json", "runs/x/manifests/e0001.00000040.json"]
)
def test_a_manifest_may_be_named_with_its_folder(name, storage):
    manifest = checkpoint(storage, claim_epoch(storage), 40)
    assert load(storage, name) == manifest


def test_a_name_that_is_none_is_told_what_one_looks_like(storage):
    with pytest.raises(
        CheckpointError, match=r"step-40 names no manifest; write one such as e0007"
    ):
        load(storage, "step-40")


def test_a_manifest_that_does_not_exist_is_missing(storage):
    with pytest.raises(CheckpointError, match=r"manifests/e0001\.00000040\.json is missing"):
        load(storage, "e0001.00000040")


def test_a_later_epoch_is_newer_though_its_step_is_earlier(storage):
    checkpoint(storage, claim_epoch(storage), 90)
    checkpoint(storage, claim_epoch(storage), 40)
    checkpoint(storage, 2, 100)
    assert manifests(storage) == ["e0002.00000100", "e0002.00000040", "e0001.00000090"]


def test_epochs_and_steps_may_outgrow_their_zeros(storage):
    for epoch, step in ((9999, 99_999_999), (10_000, 5), (10_000, 123_456_789)):
        checkpoint(storage, epoch, step)
    assert [load(storage, name).step for name in manifests(storage)] == [123_456_789, 5, 99_999_999]


def test_files_are_found_by_their_folder(storage):
    manifest = checkpoint(storage, claim_epoch(storage), 40)
    (file,) = manifest.under("ckpt/e0001/step=00000040/learner")
    assert file.path.endswith("learner/model.bin")


def test_a_checkpoint_without_its_manifest_does_not_exist(storage):
    storage.write(f"{checkpoint_folder(1, 40)}/beliefs.arrow", b"beliefs")
    assert refusals(storage) == (None, [])


# --- the newest that is valid ---------------------------------------------------------------------


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (os.remove, "is missing"),
        (lambda path: os.truncate(path, 100), "is truncated to 100 of 7,000 bytes"),
        (flip_a_bit, "was altered"),
    ],
    ids=["missing", "truncated", "bit flipped"],
)
@pytest.mark.parametrize("file", ["beliefs.arrow", "learner/model.bin"])
def test_a_checkpoint_with_a_damaged_file_is_refused_and_the_one_before_taken(
    file, damage, reason, storage
):
    before = checkpoint(storage, claim_epoch(storage), 40)
    checkpoint(storage, 1, 60)
    damage(storage.local(f"{checkpoint_folder(1, 60)}/{file}"))
    manifest, (told,) = refusals(storage)
    assert manifest == before
    assert told.startswith("checkpoint e0001.00000060 is refused: ")
    assert f"step=00000060/{file} {reason}" in told


def test_a_manifest_with_any_flipped_bit_is_refused(storage):
    before = checkpoint(storage, claim_epoch(storage), 40)
    checkpoint(storage, 1, 60)
    path = storage.local("manifests/e0001.00000060.json")
    content = path.read_bytes()
    said = json.loads(content)
    for place in range(len(content)):
        altered = bytearray(content)
        altered[place] ^= 1 << place % 8
        path.write_bytes(altered)
        try:
            same = json.loads(altered) == said  # white space turned into other white space
        except ValueError:
            same = False
        if not same:
            with pytest.raises(CheckpointError):
                load(storage, "e0001.00000060")
    assert refusals(storage)[0] == before


def test_an_empty_manifest_is_refused(storage):
    before = checkpoint(storage, claim_epoch(storage), 40)
    checkpoint(storage, 1, 60)
    os.truncate(storage.local("manifests/e0001.00000060.json"), 0)
    manifest, (told,) = refusals(storage)
    assert manifest == before
    assert "manifests/e0001.00000060.json was altered or truncated" in told


def test_a_copy_of_a_manifest_under_another_name_is_refused(storage):
    checkpoint(storage, claim_epoch(storage), 40)
    content = storage.content("manifests/e0001.00000040.json")
    storage.write("manifests/e0001.00000060.json", content)
    with pytest.raises(CheckpointError, match=r"is a copy of the manifest e0001\.00000040"):
        load(storage, "e0001.00000060")


def test_of_one_history_only_its_own_manifests_count(storage):
    claim_epoch(storage)
    for step in (20, 40):
        checkpoint(storage, 1, step)
    claim_epoch(storage)
    lineage = (Segment(1, 0), Segment(2, 20))  # the checkpoint of step 40 was not taken up
    assert newest_valid(storage, pytest.fail).name == "e0001.00000040"
    assert newest_valid(storage, pytest.fail, lineage).name == "e0001.00000020"
    checkpoint(storage, 2, 30)
    assert newest_valid(storage, pytest.fail, lineage).name == "e0002.00000030"


def test_when_none_is_valid_the_run_does_not_silently_begin_anew(storage):
    checkpoint(storage, claim_epoch(storage), 40)
    os.remove(storage.local(f"{checkpoint_folder(1, 40)}/beliefs.arrow"))
    told = []
    with pytest.raises(CheckpointError, match=r"none of the 1 checkpoints of .* is valid"):
        newest_valid(storage, told.append)
    assert len(told) == 1
