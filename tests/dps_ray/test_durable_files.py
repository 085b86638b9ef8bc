import errno
import hashlib
import os
import pickle
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
from pyarrow import fs

from dps_ray.durable import Storage, files, write_snapshot
from dps_ray.errors import CheckpointError
from tests.network import silent_port

CONTENT = bytes(range(256)) * 64  # 16 KiB


@pytest.fixture
def storage(tmp_path):
    return Storage.at(tmp_path / "run")


@pytest.fixture
def bucket():
    """An object store as pyarrow shows it: no fsync, no rename."""
    store = fs._MockFileSystem()
    store.create_dir("bucket")
    return Storage("mock://bucket", fs.SubTreeFileSystem("bucket", store), None)


@pytest.fixture(params=["folder", "object store"])
def either(request, storage, bucket):
    return storage if request.param == "folder" else bucket


def test_what_was_written_is_read_back_with_its_length_and_digest(either):
    stored = either.write("ckpt/a.bin", CONTENT)
    assert stored.bytes == len(CONTENT)
    assert stored.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert either.read(stored).to_pybytes() == CONTENT
    either.verify(stored)
    assert either.list("ckpt") == ["ckpt/a.bin"]
    assert either.exists("ckpt/a.bin")


def test_a_writer_may_write_in_pieces(either):
    def in_pieces(sink):
        for start in range(0, len(CONTENT), 1000):
            sink.write(CONTENT[start : start + 1000])

    assert either.read(either.write("a.bin", in_pieces)).to_pybytes() == CONTENT


def test_an_existing_name_is_never_written_again(either):
    stored = either.write("ckpt/a.bin", CONTENT)
    with pytest.raises(CheckpointError, match=r"ckpt/a\.bin exists already"):
        either.write("ckpt/a.bin", b"other")
    assert either.read(stored).to_pybytes() == CONTENT


def test_a_missing_folder_lists_as_empty(either):
    assert either.list("nowhere") == []


def test_deleting_takes_the_folders_left_empty_but_never_the_root(storage):
    storage.write("ckpt/e0001/a.bin", CONTENT)
    storage.write("ckpt/e0002/b.bin", CONTENT)
    storage.delete("ckpt/e0001/a.bin")
    assert not storage.local("ckpt/e0001").exists()
    assert storage.local("ckpt/e0002/b.bin").exists()
    storage.delete("ckpt/e0002/b.bin")
    assert storage.local("").is_dir()
    assert not storage.local("ckpt").exists()


def test_deleting_what_is_gone_is_no_error(either):
    either.write("a.bin", CONTENT)
    either.delete("a.bin")
    either.delete("a.bin")
    assert either.list("") == []


def test_an_unknown_kind_of_uri_is_refused():
    with pytest.raises(CheckpointError, match=r"s4://bucket/run cannot be opened.*write a folder"):
        Storage.at("s4://bucket/run")


def test_credentials_in_a_uri_are_not_shown():
    storage = Storage.at(
        "s3://key:secret@bucket/run?region=us-east-1&endpoint_override=localhost:1"
    )
    assert storage.root == "s3://bucket/run"


def test_a_store_that_is_silent_is_given_up(monkeypatch):
    monkeypatch.setattr(files, "SILENT", 0.5)
    with silent_port() as port:
        storage = Storage.at(
            f"s3://key:secret@bucket/run?region=us-east-1&scheme=http&endpoint_override=127.0.0.1:{port}"
        )
        for ask in (
            lambda: storage.write("a", b"1"),
            lambda: storage.list(""),
            lambda: storage.content("a"),
            lambda: storage.create_exclusively("a"),
            lambda: storage.delete("a"),
        ):
            with pytest.raises(CheckpointError, match=r"s3://bucket/run/.*no answer within 0\.5 s"):
                ask()


def test_a_file_uri_is_a_local_folder(tmp_path):
    assert Storage.at(f"file://{tmp_path}/run").local("a") == tmp_path / "run/a"


def test_it_works_in_the_process_it_was_sent_to(storage):
    stored = storage.write("a.bin", CONTENT)
    assert pickle.loads(pickle.dumps(storage)).read(stored).to_pybytes() == CONTENT


# --- damage ---------------------------------------------------------------------------------------


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def make_a_hole(path):
    content = bytearray(path.read_bytes())
    content[4096:8192] = bytes(4096)
    path.write_bytes(content)


DAMAGE = {
    "truncated": (lambda path: os.truncate(path, 9000), "is truncated to 9,000 of 16,384 bytes"),
    "emptied": (lambda path: os.truncate(path, 0), "is truncated to 0 of 16,384 bytes"),
    "extended": (lambda path: os.truncate(path, 20_000), "has 20,000 bytes where 16,384 were"),
    "bit flipped": (flip_a_bit, "was altered"),
    "hole of 4 KiB": (make_a_hole, "was altered"),
    "missing": (os.remove, "is missing"),
}


@pytest.mark.parametrize("look", [Storage.read, Storage.verify])
@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_refused_with_the_file_and_the_reason(kind, look, storage):
    damage, reason = DAMAGE[kind]
    stored = storage.write("ckpt/a.bin", CONTENT)
    damage(storage.local("ckpt/a.bin"))
    with pytest.raises(CheckpointError, match=rf"run/ckpt/a\.bin {reason}"):
        look(storage, stored)


# --- writes that fail -----------------------------------------------------------------------------


def disk_full_midway(sink):
    sink.write(CONTENT)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_midway_leaves_nothing_and_says_so(either):
    with pytest.raises(
        CheckpointError, match=r"ckpt/a\.bin was not written: No space left on device"
    ):
        either.write("ckpt/a.bin", disk_full_midway)
    assert either.list("") == []


def test_after_a_full_disk_the_same_name_can_be_written(either):
    with pytest.raises(CheckpointError):
        either.write("ckpt/a.bin", disk_full_midway)
    assert either.read(either.write("ckpt/a.bin", CONTENT)).to_pybytes() == CONTENT


def test_a_file_that_the_system_cuts_short_leaves_nothing(storage):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(CONTENT) - 1, before[1]))
    try:
        with pytest.raises(CheckpointError, match=r"a\.bin was not written: File too large"):
            storage.write("a.bin", CONTENT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert storage.list("") == []


def test_an_arrow_file_that_the_system_cuts_short_leaves_nothing(storage):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(CheckpointError, match=r"a\.arrow was not written: File too large"):
            write_snapshot(storage, "a.arrow", {"numbers": np.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert storage.list("") == []


DIES_MIDWAY = """
import os, signal, sys
from dps_ray.durable import Storage

def dies(sink):
    sink.write(bytes(2**20))
    os.kill(os.getpid(), signal.SIGKILL)

Storage.at(sys.argv[1]).write("ckpt/a.bin", dies)
"""


def test_a_writer_that_is_killed_leaves_nothing_under_the_name(storage):
    killed = subprocess.run([sys.executable, "-c", DIES_MIDWAY, storage.root])
    assert killed.returncode == -signal.SIGKILL
    (left,) = storage.list("")
    assert left.endswith(".part")
    storage.verify(storage.write("ckpt/a.bin", CONTENT))


def test_an_error_of_the_writer_itself_leaves_nothing_and_stays_what_it_is(either):
    def wrong(sink):
        sink.write(CONTENT)
        raise ValueError("not a number")

    with pytest.raises(ValueError, match="not a number"):
        either.write("a.bin", wrong)
    assert either.list("") == []


def test_nothing_stands_under_the_name_before_all_is_written(storage):
    seen = []

    def looking(sink):
        sink.write(CONTENT)
        seen.extend(storage.list(""))

    storage.write("a.bin", looking)
    (part,) = seen
    assert part.startswith("a.bin.")
    assert part.endswith(".part")


def test_a_file_and_the_folders_made_for_it_are_synced_before_it_counts(storage, monkeypatch):
    synced, real = [], os.fsync

    def fsync(handle):
        synced.append(os.readlink(f"/proc/self/fd/{handle}").removeprefix(f"{storage.root}"))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    storage.write("ckpt/e0001/a.bin", CONTENT)
    part = next(index for index, name in enumerate(synced) if name.endswith(".part"))
    assert {"", "/ckpt"} < set(synced[:part])
    assert synced[part + 1 :] == ["/ckpt/e0001"]


# --- claims ---------------------------------------------------------------------------------------


def test_a_file_is_created_exclusively_once(either):
    assert either.create_exclusively("epochs/e0001", b"me")
    assert not either.create_exclusively("epochs/e0001", b"you")
    claims = [either.content(path).to_pybytes() for path in either.list("epochs")]
    assert b"me" in claims


def test_whoever_sees_a_rival_in_an_object_store_has_lost(bucket):
    bucket.write("epochs/e0001.aaaa", b"a rival that came between put and look")
    assert not bucket.create_exclusively("epochs/e0001")


# --- what other programs wrote --------------------------------------------------------------------


def written_by_another_program(folder):
    (folder / "zero").mkdir(parents=True)
    (folder / "zero/rank0.pt").write_bytes(CONTENT)
    (folder / "latest").write_text("global_step40")
    return folder


def test_files_of_another_program_are_adopted_where_they_are(storage):
    folder = written_by_another_program(storage.local("ckpt/e0001/learner"))
    stored = storage.adopt(folder, "ckpt/e0001/learner")
    assert [file.path for file in stored] == [
        "ckpt/e0001/learner/latest",
        "ckpt/e0001/learner/zero/rank0.pt",
    ]
    assert storage.read(stored[1]).to_pybytes() == CONTENT
    assert storage.fetch(stored, "ckpt/e0001/learner", storage.local("scratch")) == folder


def test_every_adopted_file_and_folder_is_synced(storage, monkeypatch):
    folder = written_by_another_program(storage.local("ckpt/e0001/learner"))
    synced, real = set(), os.fsync

    def fsync(handle):
        synced.add(os.readlink(f"/proc/self/fd/{handle}"))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    storage.adopt(folder, "ckpt/e0001/learner")
    wanted = [folder, *folder.rglob("*"), storage.local("ckpt/e0001"), storage.local("")]
    assert {str(path) for path in wanted} <= synced


def test_an_object_store_takes_copies_and_gives_a_local_folder_back(bucket, tmp_path):
    folder = written_by_another_program(tmp_path / "learner")
    stored = bucket.adopt(folder, "ckpt/learner")
    fetched = bucket.fetch(stored, "ckpt/learner", tmp_path / "scratch")
    assert (fetched / "zero/rank0.pt").read_bytes() == CONTENT
    assert (fetched / "latest").read_text() == "global_step40"


def test_an_altered_file_is_not_fetched(bucket, tmp_path):
    stored = bucket.adopt(written_by_another_program(tmp_path / "learner"), "ckpt/learner")
    with bucket.files.open_output_stream("ckpt/learner/latest") as stream:
        stream.write(b"global_step41")
    with pytest.raises(CheckpointError, match="ckpt/learner/latest was altered"):
        bucket.fetch(stored, "ckpt/learner", tmp_path / "scratch")


def test_a_folder_without_files_is_not_adopted(storage):
    with pytest.raises(CheckpointError, match="holds no files"):
        storage.adopt(storage.local("ckpt/learner"), "ckpt/learner")
