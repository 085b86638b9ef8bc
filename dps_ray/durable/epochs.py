"""Which driver a run belongs to: the last to have claimed an epoch.

    epochs/e0008      claimed by an exclusive create; says by whom

All that a driver and its actors write stands under its epoch, so a frozen predecessor that wakes up
writes beside its successor and never over it, and finds at its next commit that the run is not its own.
A driver that goes back to a manifest within its life claims a new epoch too: the steps that it does again
may come out otherwise, and the log of its old epoch has them already.
"""

import os
import re
import socket

from dps_ray.durable.files import Storage
from dps_ray.errors import OwnershipError

_FOLDER = "epochs"
_CLAIM = re.compile(rf"{_FOLDER}/e(\d+)(\.[0-9a-f]+)?")  # with a suffix in object stores


def claim_epoch(storage: Storage) -> int:
    """The next epoch of this run, 1 for the first, which is then the caller's alone."""
    who = f"{socket.gethostname()}, process {os.getpid()}".encode()
    while True:
        epoch = _newest(storage) + 1
        if storage.create_exclusively(f"{_FOLDER}/{epoch_name(epoch)}", who):
            return epoch


def check_owner(storage: Storage, epoch: int) -> None:
    """
    Raises:
        OwnershipError: a newer epoch exists; the run belongs to the driver that claimed it.
    """
    newest = _newest(storage)
    if newest > epoch:
        claims = [path for path in storage.list(_FOLDER) if _epoch_of(path) == newest]
        who = storage.content(claims[0]).to_pybytes().decode(errors="replace")
        raise OwnershipError(
            f"epoch {newest} was claimed by another driver ({who}): {storage.root} is its run now, and "
            f"this one, with epoch {epoch}, stops"
        )


def epoch_name(epoch: int) -> str:
    """`e0008`, as it stands in names of files and folders."""
    return f"e{epoch:04}"


def _newest(storage: Storage) -> int:
    return max(map(_epoch_of, storage.list(_FOLDER)), default=0)


def _epoch_of(path: str) -> int:
    match = _CLAIM.fullmatch(path)
    return int(match[1]) if match else 0
