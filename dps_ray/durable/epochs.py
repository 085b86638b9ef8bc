"""Ownership of a run: it belongs to the driver that claimed the newest epoch.

    epochs/e0008      claimed by exclusive creation; its content names the host and process

A driver and its actors write only below their own epoch. A frozen predecessor that wakes up therefore never
overwrites its successor's files, and its next commit fails with an OwnershipError. A driver that rewinds to an
earlier manifest also claims a new epoch: the repeated steps may give other results, and the old epoch's log
already holds those steps.
"""

import os
import re
import socket

from dps_ray.durable.files import Storage
from dps_ray.errors import OwnershipError

_FOLDER = "epochs"
_CLAIM = re.compile(rf"{_FOLDER}/e(\d+)(\.[0-9a-f]+)?")  # with a suffix in object stores


def claim_epoch(storage: Storage) -> int:
    """Claims the run's next epoch for the caller alone and returns its number. The first is 1."""
    who = f"{socket.gethostname()}, process {os.getpid()}".encode()
    while True:
        epoch = _newest(storage) + 1
        if storage.create_exclusively(f"{_FOLDER}/{epoch_name(epoch)}", who):
            return epoch


def check_owner(storage: Storage, epoch: int) -> None:
    """Checks that no newer epoch has been claimed.

    Raises:
        OwnershipError: a newer epoch exists; the run belongs to the driver that claimed it.
    """
    newest = _newest(storage)
    if newest > epoch:
        claims = [path for path in storage.list(_FOLDER) if _epoch_of(path) == newest]
        who = storage.content(claims[0]).to_pybytes().decode(errors="replace")
        raise OwnershipError(
            f"epoch {newest} was claimed by another driver ({who}), which now owns the run {storage.root}; "
            f"this driver, with epoch {epoch}, stops"
        )


def epoch_name(epoch: int) -> str:
    """The epoch as written in file and folder names, such as `e0008`."""
    return f"e{epoch:04}"


def _newest(storage: Storage) -> int:
    return max(map(_epoch_of, storage.list(_FOLDER)), default=0)


def _epoch_of(path: str) -> int:
    match = _CLAIM.fullmatch(path)
    return int(match[1]) if match else 0
