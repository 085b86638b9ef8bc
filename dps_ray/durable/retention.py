"""What is deleted after a commit: old checkpoints, and what crashed writes left behind.

Nothing newer than the newest manifest is touched: that may be a checkpoint in the making.
"""

import re
from collections.abc import Iterable, Sequence

from dps_ray.durable.epochs import check_owner
from dps_ray.durable.files import Storage
from dps_ray.durable.local_files import UNFINISHED
from dps_ray.durable.manifest import (
    FOLDER,
    Manifest,
    Segment,
    checkpoint_folder,
    load,
    manifests,
    moment,
    on_the_way,
)
from dps_ray.errors import CheckpointError

_OF_CHECKPOINT = re.compile(r"ckpt/e(\d+)/step=(\d+)/")
_OF_EPOCH = re.compile(r"(?:manifests|log)/e(\d+)")


def prune(storage: Storage, keep: int, keep_best: bool = False) -> list[str]:
    """Keep the newest `keep` manifests and all milestones, with every file that one of them names; and with
    `keep_best` the one that `best` finds.

    Goes: other manifests, and the files of their and earlier checkpoints that no kept manifest names; of
    older epochs also files that were never finished. A manifest that cannot be read is left as it is,
    together with the folder of its checkpoint, for a person to look at; it does not count as kept.

    Returns the paths deleted. A manifest goes before its files, so that one cut short leaves only files
    which the next call sweeps.

    Raises:
        CheckpointError: a newer driver has claimed the run and may be reading what would go.
    """
    if keep < 1:
        raise ValueError(f"at least the newest checkpoint must be kept, not {keep}")
    names = manifests(storage)
    if not names:
        return []
    newest = moment(names[0])
    check_owner(storage, newest[0])

    readable: list[Manifest] = []
    untouched: set[str] = set()
    for name in names:
        try:
            readable.append(load(storage, name))
        except CheckpointError:
            untouched.add(f"{checkpoint_folder(*moment(name))}/")
    kept = [m for place, m in enumerate(readable) if place < keep or m.milestone]
    if (
        keep_best
        and readable
        and (most_accurate := best(readable, readable[0].lineage)) is not None
    ):
        kept.append(most_accurate)
    named = {file.path for manifest in kept for file in manifest.files}

    gone = [f"{FOLDER}/{m.name}.json" for m in readable if m not in kept]
    gone += [
        path
        for path in storage.list("ckpt")
        if path not in named
        and _moment_of(path) <= newest
        and not any(path.startswith(folder) for folder in untouched)
    ]
    gone += [
        path
        for folder in (FOLDER, "log")
        for path in storage.list(folder)
        if path.endswith(UNFINISHED) and _epoch_of(path) < newest[0]
    ]
    for path in gone:
        storage.delete(path)
    return gone


def best(manifests: Iterable[Manifest], lineage: Sequence[Segment]) -> Manifest | None:
    """The manifest with the highest held-out accuracy, the earliest of equals; None when none was evaluated.

    lineage: only those on this way count: a run that went back to an earlier checkpoint has nothing to do any
        more with what came after that.
    """
    evaluated = [
        m for m in manifests if m.accuracy is not None and on_the_way(lineage, m.epoch, m.step)
    ]
    return max(evaluated, key=lambda m: (m.accuracy, -m.step), default=None)


def _moment_of(path: str) -> tuple[float, float]:
    """Epoch and step of the checkpoint this file is of; never, if it is of none."""
    match = _OF_CHECKPOINT.match(path)
    return (int(match[1]), int(match[2])) if match else (float("inf"), 0)


def _epoch_of(path: str) -> float:
    match = _OF_EPOCH.match(path)
    return int(match[1]) if match else float("inf")
