"""What a run needs of this machine, proven before anything slow starts: folders it may write into, and room.

Each error says what is in the way and what to do about it.
"""

import getpass
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from dps_ray.durable import Storage, local_files
from dps_ray.errors import ConfigError, ResourceError, mendable

OBJECTS = (
    256 << 20
)  # bytes for Ray's objects at the least: batches and, one step ahead, the next ones
_LONGEST_SOCKET = (
    107  # bytes of a socket's path on Linux, of which Ray needs these below its folder:
)
_IN_SESSION = "session_2000-01-01_00-00-00_000000_0000000/sockets/plasma_store.0"


def check_machine() -> None:
    """
    Raises:
        ResourceError: the user has no home folder to write into, or no name; or Ray, if it is to be started here,
            has no folder or no room.
    """
    # Ray takes a second to import, which the programs that start none need not wait for.
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
    """
    Args:
        key: the setting or option that names the folder, as it is written before its value.

    Raises:
        ConfigError: files cannot be written into it, or it cannot be made.
    """
    try:
        local_files.prove_writable(Path(folder))
    except OSError as error:
        raise ConfigError(
            f"{key}{folder} cannot be written to: {mendable(error)}; name another folder, or mend that"
        ) from None


def check_file(key: str, file: Path) -> None:
    """That a file can be written, as `check_folder` of the folder it is in.

    Raises:
        ConfigError: it cannot.
    """
    if file.is_dir():
        raise ConfigError(f"{key}{file} is a folder; name a file in it")
    check_folder(key, file.parent)


def check_storage(where: str) -> None:
    """Checkpoints' own folder or URI.

    Raises:
        ConfigError: files cannot be written into the folder, or it cannot be made.
        CheckpointError: a file cannot be written, read and deleted in the object store.
    """
    storage = Storage.at(where)
    if storage.folder is not None:
        return check_folder("checkpoint.storage=", storage.folder)
    name = f"preflight-{secrets.token_hex(8)}"
    storage.read(storage.write(name, b"may be deleted"))
    storage.delete(name)


def check_user() -> None:
    """
    Raises:
        ResourceError: the user has no name, or no home folder to write into.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        raise ResourceError(
            f"the user {os.getuid()} has no name on this machine, and torch asks for one: set USER to any name"
        ) from None
    home = Path(os.path.expanduser("~"))
    try:
        local_files.prove_writable(home)
    except OSError as error:
        raise ResourceError(
            f"the home folder {home} cannot be written to ({mendable(error)}), and Ray, vLLM and DeepSpeed keep "
            "files there: set HOME to a folder that can"
        ) from None


def check_ray_folder(temporary: Path) -> None:
    """
    Args:
        temporary: where Ray keeps sockets and logs of what it starts here.

    Raises:
        ResourceError: Ray cannot write there, or its sockets' paths would be too long.
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
    """
    Args:
        places: where Ray keeps objects: in the first if that has room, else in the next.
        needed: bytes.

    Raises:
        ResourceError: none has that much room, or the first is not there.
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
