"""Checks of this machine before anything slow starts: writable folders and free space.

Each error says what is wrong and how to fix it.
"""

import getpass
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from dps_ray.durable import Storage, local_files
from dps_ray.errors import ConfigError, ResourceError, mendable

# Least free bytes for Ray's objects: batches and, one step ahead, the next ones.
OBJECTS = 256 << 20
# Longest path of a socket on Linux, in bytes, and the part of the path that Ray adds to its folder.
_LONGEST_SOCKET = 107
_IN_SESSION = "session_2000-01-01_00-00-00_000000_0000000/sockets/plasma_store.0"


def check_machine() -> None:
    """Checks the user's environment and, if Ray is to be started here, its folder and space.

    Raises:
        ResourceError: the user has no writable home folder or no name; or Ray has no writable folder or no space.
    """
    # Imported here because Ray takes a second to import, and other programs do not need it.
    import ray
    from ray._common.utils import get_default_ray_temp_dir

    from cluster.start import joins

    check_user()
    if joins() or ray.is_initialized():
        return
    temporary = Path(get_default_ray_temp_dir())
    check_ray_folder(temporary)
    check_room((Path("/dev/shm"), temporary))


def check_folder(key: str, folder: str | Path) -> None:
    """Checks that files can be written into a folder, which is made if needed.

    Args:
        key: the setting or option that names the folder, as written before its value, such as `folder=`.

    Raises:
        ConfigError: the folder cannot be made or is not writable.
    """
    try:
        local_files.prove_writable(Path(folder))
    except OSError as error:
        raise ConfigError(
            f"{key}{folder} cannot be written to: {mendable(error)}; name another folder, or fix this one"
        ) from None


def check_file(key: str, file: Path) -> None:
    """Checks that a file can be written, by `check_folder` of its folder.

    Raises:
        ConfigError: it cannot be written.
    """
    if file.is_dir():
        raise ConfigError(f"{key}{file} is a folder; name a file in it")
    check_folder(key, file.parent)


def check_storage(where: str) -> None:
    """Checks that the folder or URI for checkpoints is writable.

    Raises:
        ConfigError: the folder cannot be made or is not writable.
        CheckpointError: a file could not be written, read and deleted in the object store.
    """
    storage = Storage.at(where)
    if storage.folder is not None:
        return check_folder("checkpoint.storage=", storage.folder)
    name = f"preflight-{secrets.token_hex(8)}"
    storage.read(storage.write(name, b"may be deleted"))
    storage.delete(name)


def check_user() -> None:
    """Checks that the user has a name and a writable home folder.

    Raises:
        ResourceError: one of the two is missing.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        raise ResourceError(
            f"the user {os.getuid()} has no name on this machine, and torch needs one: set USER to any name"
        ) from None
    home = Path(os.path.expanduser("~"))
    try:
        local_files.prove_writable(home)
    except OSError as error:
        raise ResourceError(
            f"the home folder {home} cannot be written to ({mendable(error)}), and Ray, vLLM and DeepSpeed keep "
            "files there: set HOME to a writable folder"
        ) from None


def check_ray_folder(temporary: Path) -> None:
    """Checks the folder for the sockets and logs of a Ray that is started on this machine.

    Raises:
        ResourceError: the folder is not writable, or the paths of sockets in it would be too long.
    """
    try:
        local_files.prove_writable(temporary)
    except OSError as error:
        raise ResourceError(
            f"Ray cannot write to {temporary} ({mendable(error)}): set RAY_TMPDIR to a folder that can be written to"
        ) from None
    if (length := len(os.fsencode(temporary / _IN_SESSION))) > _LONGEST_SOCKET:
        raise ResourceError(
            f"the paths of Ray's sockets below {temporary} would have {length} bytes, and Linux allows "
            f"{_LONGEST_SOCKET}: set RAY_TMPDIR to a folder with a shorter path"
        )


def check_room(places: Sequence[Path], needed: int = OBJECTS) -> None:
    """Checks that Ray has enough space for objects.

    Args:
        places: the folders where Ray keeps objects: it uses the first if that has enough space, otherwise the next.
        needed: bytes.

    Raises:
        ResourceError: no folder has enough space, or the first does not exist.
    """
    if not places[0].is_dir():
        raise ResourceError(f"there is no {places[0]}, where Ray keeps objects: mount it")
    free = {place: _free(place) for place in places}
    if max(free.values()) < needed:
        found = " and ".join(f"{place} has {size / 2**20:,.0f} MiB" for place, size in free.items())
        raise ResourceError(
            f"Ray needs {needed / 2**20:,.0f} MiB for objects, and {found} left: delete files there, or give a "
            "container more (docker run --shm-size=4g)"
        )


def _free(place: Path) -> int:
    room = os.statvfs(local_files.nearest(place))
    return room.f_bavail * room.f_frsize
