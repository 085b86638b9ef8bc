"""What stands in the way of a run is said in a line before anything starts, whatever user it is that runs it."""

import ctypes
import os
from pathlib import Path

import pytest

from dps_ray.durable import local_files
from dps_ray.errors import CheckpointError, ConfigError, DPSError, ResourceError, mendable
from pipelines.command.preflight import (
    check_file,
    check_folder,
    check_machine,
    check_ray_folder,
    check_room,
    check_storage,
    check_user,
)
from pipelines.data import builtin, start_policy

NOBODY = 65534
_NEW_MOUNTS, _PRIVATE, _READ_ONLY = 0x20000, 0x44000, 1  # of unshare(2) and mount(2)


def in_a_child(become, check, *arguments) -> str:
    """What a check says in a forked process that has first become something else; skipped where it cannot."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = "skip: it died"
        try:
            become()
            try:
                check(*arguments)
                said = "fine"
            except DPSError as error:
                said = str(error)
        except BaseException as error:
            said = f"skip: {error}"
        finally:
            os.write(writing, said.encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    if said.startswith("skip: "):
        pytest.skip(f"not possible on this machine: {said}")
    return said


def nobody(home: str = "/"):
    def become():
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        os.environ["HOME"] = home

    return become


def alone_with(size: str, flags: int = 0):
    """To see a small file system of one's own at /mnt."""

    def become():
        system = ctypes.CDLL(None, use_errno=True)
        if (
            system.unshare(_NEW_MOUNTS) != 0
            or system.mount(b"none", b"/", None, _PRIVATE, None) != 0
            or system.mount(b"none", b"/mnt", b"tmpfs", flags, f"size={size}".encode()) != 0
        ):
            raise OSError(ctypes.get_errno(), "no file system can be mounted")

    return become


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a file"
    path.write_text("")
    return path


def test_a_machine_that_has_what_a_run_needs_is_left_as_it_was(tmp_path):
    check_machine()
    check_folder("folder=", tmp_path / "new" / "run")
    check_storage(str(tmp_path / "new" / "storage"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["", "run", "runs/mine"])
def test_a_file_where_the_folder_would_be_is_named(file, below):
    with pytest.raises(ConfigError, match=r"folder=.* cannot be written to: .*a file: is a file"):
        check_folder("folder=", file / below)
    with pytest.raises(ConfigError, match=r"checkpoint.storage=.*a file: is a file"):
        check_storage(str(file / below))


def test_a_folder_that_nothing_can_be_made_in_is_named():
    with pytest.raises(ConfigError, match=r"--out /proc/run cannot be written to: /proc: .*; name"):
        check_folder("--out ", Path("/proc/run"))


def test_a_folder_where_a_file_is_to_be_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"--json .* is a folder; name a file in it"):
        check_file("--json ", tmp_path)


@pytest.mark.parametrize(
    ("size", "flags", "said"),
    [
        ("64k", 0, "folder=/mnt/run cannot be written to: /mnt: No space left on device; name"),
        (
            "8m",
            _READ_ONLY,
            "folder=/mnt/run cannot be written to: /mnt: Read-only file system; name",
        ),
        ("8m", 0, "fine"),
    ],
)
def test_a_full_disk_and_a_read_only_one_are_told_apart(size, flags, said):
    assert in_a_child(alone_with(size, flags), check_folder, "folder=", "/mnt/run").startswith(said)


def test_another_users_folder_is_named():
    assert in_a_child(nobody(), check_folder, "folder=", "/etc/run") == (
        "folder=/etc/run cannot be written to: /etc: Permission denied; name another folder, or fix this one"
    )


def test_a_user_without_a_home_folder_is_told_to_set_one():
    said = in_a_child(nobody(home="/nonexistent"), check_user)
    assert "the home folder /nonexistent cannot be written to" in said
    assert "set HOME" in said
    assert in_a_child(nobody(home="/tmp"), check_user) == "fine"


def test_a_user_without_a_name_is_told_to_set_one():
    def become():
        for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
            os.environ.pop(name, None)
        os.setuid(54321)

    assert "the user 54321 has no name on this machine" in in_a_child(become, check_user)


def test_rays_folder_of_another_user_is_named_with_the_variable_that_moves_it():
    said = in_a_child(nobody(), check_ray_folder, Path("/etc/ray"))
    assert said.startswith("Ray cannot write to /etc/ray (/etc: Permission denied): set RAY_TMPDIR")


def test_a_folder_too_deep_for_rays_sockets_is_named(tmp_path):
    with pytest.raises(ResourceError, match="Linux allows 107: set RAY_TMPDIR"):
        check_ray_folder(tmp_path / ("deep/" * 20))


def test_too_little_room_for_objects_is_said_of_each_place(tmp_path):
    check_room((tmp_path, tmp_path), needed=1)
    with pytest.raises(ResourceError, match=r"Ray needs .* MiB for objects, and .*--shm-size"):
        check_room((tmp_path, tmp_path / "ray"), needed=2**60)
    with pytest.raises(
        ResourceError, match=r"there is no .*shm, where Ray keeps objects: mount it"
    ):
        check_room((tmp_path / "shm", tmp_path))


@pytest.mark.parametrize(
    ("second", "said"),
    [("/tmp", "fine"), ("/mnt/ray", "Ray needs 1 MiB for objects, and /mnt has 0 MiB and")],
)
def test_room_in_the_second_place_is_enough(second, said):
    places = (Path("/mnt"), Path(second))
    assert in_a_child(alone_with("64k"), check_room, places, 1 << 20).startswith(said)


def test_a_store_that_refuses_is_named():
    with pytest.raises(CheckpointError, match="nosuchscheme://bucket/run cannot be opened"):
        check_storage("nosuchscheme://bucket/run")


def test_a_cache_that_cannot_be_written_says_what_to_set(file):
    for make in (builtin.ensure_arithmetic, start_policy.tiny_policy):
        with pytest.raises(ResourceError, match=r"is a file .*; set XDG_CACHE_HOME to a folder"):
            make(file / "cache")


def test_what_is_in_a_cache_is_found_where_nothing_can_be_written(tmp_path):
    made = start_policy.tiny_policy(tmp_path)
    (lock,) = tmp_path.glob(".*.lock")
    lock.unlink()
    lock.mkdir()  # root may write into a folder whatever its mode
    assert start_policy.tiny_policy(tmp_path) == made


def test_only_what_says_something_of_the_users_files_is_told_in_a_line(tmp_path):
    with pytest.raises(OSError, match="a directory") as error:
        tmp_path.read_text()
    assert mendable(error.value) == f"{tmp_path}: Is a directory"
    with pytest.raises(OSError, match="No space") as error:
        Path("/dev/full").write_text("x")
    assert mendable(error.value) == "No space left on device"
    assert mendable(DPSError("why")) == "why"
    assert mendable(OSError("a bug")) is None
    assert mendable(ValueError("a bug")) is None


def test_proving_a_folder_writable_leaves_nothing(tmp_path):
    local_files.prove_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
