"""Files of a checkpoint are torn, altered or lost: that checkpoint is refused, by name and reason, and the
run goes on from the one before."""

import shutil

import pytest

from dps_ray.config import settings
from dps_ray.durable import Storage, manifests
from dps_ray.errors import CheckpointError
from pipelines.training.checkpoint import to_resume

pytestmark = pytest.mark.slow  # waits for a whole run, which others wait for too

HOLE = 4096


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def punch_a_hole(path):
    content = path.read_bytes()
    middle = len(content) // 2
    assert any(content[middle : middle + HOLE])
    path.write_bytes(content[:middle] + bytes(HOLE) + content[middle + HOLE :])


def lose(path):
    path.unlink()


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def resumed(folder, *overrides):
    """The checkpoint that the run would go on from, and what was said."""
    config = settings.load(folder / "config.yaml", [f"folder={folder}", *overrides])
    said = []
    manifest = to_resume(config, Storage.at(folder), said.append)
    return manifest and manifest.name, said


@pytest.mark.parametrize(
    ("damage", "file", "reason"),
    [
        (truncate, "beliefs-00001-of-00002.arrow", "is truncated to"),
        (flip_a_bit, "beliefs-00000-of-00002.arrow", "was altered"),
        (flip_a_bit, "model/config.json", "was altered"),
        (punch_a_hole, "model/model.safetensors", "was altered"),
        (lose, "coordinator.json", "is missing"),
    ],
)
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_taken(folder, damage, file, reason):
    damage(folder / "ckpt/e0001/step=00000003" / file)
    name, (said,) = resumed(folder)
    assert name == "e0001.00000002"
    assert said.startswith("checkpoint e0001.00000003 is refused: ")
    assert f"step=00000003/{file} {reason}" in said


def test_a_damaged_manifest_is_refused(folder):
    flip_a_bit(folder / "manifests/e0001.00000003.json")
    name, (said,) = resumed(folder)
    assert name == "e0001.00000002"
    assert "manifests/e0001.00000003.json was altered" in said


def test_a_checkpoint_that_is_named_is_taken_or_refused_but_not_another(folder):
    assert resumed(folder, "resume=e0001.00000002")[0] == "e0001.00000002"
    assert resumed(folder, f"resume={folder}/manifests/e0001.00000002.json")[0] == "e0001.00000002"
    lose(folder / "ckpt/e0001/step=00000002/config.yaml")
    with pytest.raises(CheckpointError, match=r"config\.yaml is missing"):
        resumed(folder, "resume=e0001.00000002")
    with pytest.raises(CheckpointError, match=r"write auto, never, or one of e0001\.00000003"):
        resumed(folder, "resume=e0001.00000007")


def test_when_no_checkpoint_is_whole_a_person_decides(folder):
    for name in manifests(Storage.at(folder)):
        truncate(folder / "manifests" / f"{name}.json")
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints"):
        resumed(folder)


def test_a_second_driver_takes_the_run_over_and_the_first_stops(local_ray, tmp_path):
    from dps_ray.errors import OwnershipError
    from tests.faults.beliefs_run import BeliefsRun, assert_equal, undisturbed

    first = BeliefsRun(tmp_path)
    batches = first.steps(1, 2)
    second = BeliefsRun(tmp_path, base=first.save(2))
    batches += second.steps(3)
    with pytest.raises(OwnershipError, match="epoch 2 was claimed by another driver"):
        first.steps(3)
    with pytest.raises(OwnershipError):
        first.save(2)
    batches += second.steps(4)
    assert_equal((batches, second.beliefs(4)), undisturbed(1, 2, 3, 4))
