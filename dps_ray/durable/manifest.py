"""Manifests: a checkpoint exists when its manifest does.

    ckpt/e0007/step=00000040/...       the files of a checkpoint, each written under a new name
    manifests/e0007.00000040.json      the commit, written last: what belongs to it, with size and SHA-256

The order of manifests is that of (epoch, step): what a newer driver did counts as newer, though it may
have gone back and be at an earlier step.
"""

import hashlib
import json
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dps_ray.durable.epochs import check_owner, epoch_name
from dps_ray.durable.files import Storage, Stored
from dps_ray.errors import CheckpointError

FOLDER = "manifests"
DEEPSPEED_TAG = "state"  # DeepSpeed's name for the files of a learner, in every checkpoint
_NAME = re.compile(r"e(\d{4,})\.(\d{8,})")
_CHECKSUM = "sha256"


class Segment(NamedTuple):
    """A part of a run's history: the steps after `after` that this epoch's driver did."""

    epoch: int
    after: int


class Manifest(BaseModel):
    """What a checkpoint is made of, and what it was made by."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int
    step: int
    """The last step that is in it."""
    files: tuple[Stored, ...]
    lineage: tuple[Segment, ...]
    """Which epoch did which steps on the way here, oldest first, this epoch last."""
    dataset_fingerprint: str
    config_hash: str
    weight_version: int
    belief_shards: int
    learner_ranks: int
    zero_stage: int
    deepspeed_tag: str
    milestone: bool = False
    """Kept for ever."""
    accuracy: float | None = None
    """On held-out prompts, in [0, 1], if it was measured at this step."""
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @property
    def name(self) -> str:
        """`e0007.00000040`"""
        return f"{epoch_name(self.epoch)}.{self.step:08}"

    def under(self, folder: str) -> list[Stored]:
        """Its files below this folder."""
        return [file for file in self.files if file.path.startswith(f"{folder}/")]


def checkpoint_folder(epoch: int, step: int) -> str:
    """Where the files of a checkpoint go: `ckpt/e0007/step=00000040`."""
    return f"ckpt/{epoch_name(epoch)}/step={step:08}"


def commit(storage: Storage, manifest: Manifest) -> None:
    """Make a checkpoint of files that are all written: its manifest, durable when this returns.

    Raises:
        CheckpointError: a newer driver has claimed the run, or the manifest could not be written.
    """
    check_owner(storage, manifest.epoch)
    body = manifest.model_dump(mode="json")
    text = json.dumps({**body, _CHECKSUM: _checksum(body)}, indent=1)
    storage.write(_path(manifest.name), text.encode())


def manifests(storage: Storage) -> list[str]:
    """The names of all manifests, newest first."""
    names = [path.removeprefix(f"{FOLDER}/").removesuffix(".json") for path in storage.list(FOLDER)]
    return sorted(filter(_NAME.fullmatch, names), key=moment, reverse=True)


def moment(name: str) -> tuple[int, int]:
    """Epoch and step of the manifest of this name."""
    match = _NAME.fullmatch(name)
    if not match:
        raise CheckpointError(f"{name} names no manifest; write one such as e0007.00000040")
    return int(match[1]), int(match[2])


def load(storage: Storage, name: str) -> Manifest:
    """The manifest of this name, which may stand with its folder and `.json`; itself intact.

    Its files are for `verify` to look at.

    Raises:
        CheckpointError: there is none, it was altered, or another version wrote it.
    """
    name = name.rpartition("/")[2].removesuffix(".json")
    moment(name)
    path = _path(name)
    content = storage.content(path).to_pybytes()
    try:
        body = json.loads(content)
        stated = body.pop(_CHECKSUM)
        intact = _checksum(body) == stated
    except (ValueError, AttributeError, KeyError, TypeError):
        intact = False
    if not intact:
        raise CheckpointError(
            f"{storage.root}/{path} was altered or truncated: its checksum is wrong"
        )
    try:
        manifest = Manifest.model_validate(body)
    except ValidationError as error:
        raise CheckpointError(
            f"{storage.root}/{path} was written by another version: {error}"
        ) from error
    if manifest.name != name:
        raise CheckpointError(f"{storage.root}/{path} is a copy of the manifest {manifest.name}")
    return manifest


def verify(storage: Storage, manifest: Manifest) -> None:
    """Look at every file of the manifest.

    Raises:
        CheckpointError: one is missing, truncated or altered; the message says which and how.
    """
    for file in manifest.files:
        storage.verify(file)


def on_the_way(lineage: Sequence[Segment], epoch: int, step: int) -> bool:
    """Whether this step of this epoch is part of that history, and not of what a run left when it went back."""
    ends = {segment.epoch: after.after for segment, after in pairwise(lineage)}
    ends[lineage[-1].epoch] = sys.maxsize
    return step <= ends.get(epoch, -1)


def newest_valid(
    storage: Storage,
    on_refused: Callable[[str], None],
    lineage: Sequence[Segment] | None = None,
) -> Manifest | None:
    """The newest manifest of which every file is as it was written; None if there are no manifests.

    on_refused: told of each newer one that is not, with the file and the reason.
    lineage: only manifests on this way count; None: all do.

    Raises:
        CheckpointError: there are manifests, and none is valid. To begin anew is for the user to decide.
    """
    names = [
        name for name in manifests(storage) if lineage is None or on_the_way(lineage, *moment(name))
    ]
    for name in names:
        try:
            manifest = load(storage, name)
            verify(storage, manifest)
            return manifest
        except CheckpointError as error:
            on_refused(f"checkpoint {name} is refused: {error}")
    if names:
        raise CheckpointError(
            f"none of the {len(names)} checkpoints of {storage.root} is valid; restore its files, or name "
            "another folder to start anew"
        )
    return None


def _path(name: str) -> str:
    return f"{FOLDER}/{name}.json"


def _checksum(body: dict[str, object]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
