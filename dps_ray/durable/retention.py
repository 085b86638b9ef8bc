"""Deletion after a commit: old checkpoints and the remains of crashed writes.

Files newer than the newest manifest are kept, because they may belong to a checkpoint that is being written.
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
    """Deletes old checkpoints and returns the deleted paths.

    Kept are the newest `keep` manifests, all milestones and, with `keep_best`, the manifest that `best` returns, each
    with all files that it lists. Deleted are all other manifests, the files of this and earlier checkpoints that no
    kept manifest lists, and unfinished files of older epochs. A manifest that cannot be read stays, with its
    checkpoint's folder, so that a person can inspect it; it does not count towards `keep`.

    A manifest is deleted before its files. A deletion that is interrupted therefore leaves only files without a
    manifest, and the next call deletes those.

    Raises:
        CheckpointError: a newer driver has claimed the run and may be reading these files.
    """
    if keep < 1:
        raise ValueError(f"keep={keep}: at least the newest checkpoint must be kept")
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
    """The manifest with the highest held-out accuracy, the earliest of equals; None if none was evaluated.

    lineage: only manifests in this history count; those that a rewind discarded do not.
    """
    evaluated = [
        m for m in manifests if m.accuracy is not None and on_the_way(lineage, m.epoch, m.step)
    ]
    return max(evaluated, key=lambda m: (m.accuracy, -m.step), default=None)


def _moment_of(path: str) -> tuple[float, float]:
    """The epoch and step of the checkpoint that holds this file; (inf, 0) if it is in no checkpoint."""
    match = _OF_CHECKPOINT.match(path)
    return (int(match[1]), int(match[2])) if match else (float("inf"), 0)


def _epoch_of(path: str) -> float:
    match = _OF_EPOCH.match(path)
    return int(match[1]) if match else float("inf")
