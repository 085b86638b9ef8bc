"""Manifests: a checkpoint exists if and only if its manifest exists.

    ckpt/e0007/step=00000040/...       the files of a checkpoint, each written under a new name
    manifests/e0007.00000040.json      the commit, written last: lists these files with size and SHA-256

Manifests are ordered by (epoch, step). A manifest of a later epoch counts as newer even when its driver rewound and
is at an earlier step.
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
DEEPSPEED_TAG = "state"  # the tag of the DeepSpeed checkpoint within every checkpoint
_NAME = re.compile(r"e(\d{4,})\.(\d{8,})")
_CHECKSUM = "sha256"


class Segment(NamedTuple):
    """A part of a run's history: the steps after step `after` that the driver of this epoch did."""

    epoch: int
    after: int


class Manifest(BaseModel):
    """Lists the files of a checkpoint and describes the run that wrote it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int
    step: int
    """The last step that the checkpoint includes."""
    files: tuple[Stored, ...]
    lineage: tuple[Segment, ...]
    """The history of this checkpoint: which epoch did which steps, oldest first, this epoch last."""
    dataset_fingerprint: str
    config_hash: str
    weight_version: int
    belief_shards: int
    learner_ranks: int
    zero_stage: int
    deepspeed_tag: str
    milestone: bool = False
    """Whether the checkpoint is never deleted."""
    accuracy: float | None = None
    """Accuracy on held-out prompts, in [0, 1]; None if it was not measured at this step."""
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @property
    def name(self) -> str:
        """The manifest's name, such as `e0007.00000040`."""
        return f"{epoch_name(self.epoch)}.{self.step:08}"

    def under(self, folder: str) -> list[Stored]:
        """The checkpoint's files below this folder."""
        return [file for file in self.files if file.path.startswith(f"{folder}/")]


def checkpoint_folder(epoch: int, step: int) -> str:
    """The folder of a checkpoint's files, such as `ckpt/e0007/step=00000040`."""
    return f"ckpt/{epoch_name(epoch)}/step={step:08}"


def commit(storage: Storage, manifest: Manifest) -> None:
    """Commits a checkpoint whose files are all written, by writing its manifest. It is durable when this returns.

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
    """The epoch and step in a manifest's name."""
    match = _NAME.fullmatch(name)
    if not match:
        raise CheckpointError(f"{name} names no manifest; write one such as e0007.00000040")
    return int(match[1]), int(match[2])


def load(storage: Storage, name: str) -> Manifest:
    """The manifest of this name, checked by its checksum. The name may include the folder and `.json`.

    The files that it lists are not checked; `verify` does that.

    Raises:
        CheckpointError: the manifest is missing or altered, or another version of this program wrote it.
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
    """Checks every file that the manifest lists.

    Raises:
        CheckpointError: a file is missing, truncated or altered; the message says which and how.
    """
    for file in manifest.files:
        storage.verify(file)


def on_the_way(lineage: Sequence[Segment], epoch: int, step: int) -> bool:
    """Whether this step of this epoch belongs to the history `lineage`, and was not discarded by a rewind."""
    ends = {segment.epoch: after.after for segment, after in pairwise(lineage)}
    ends[lineage[-1].epoch] = sys.maxsize
    return step <= ends.get(epoch, -1)


def newest_valid(
    storage: Storage,
    on_refused: Callable[[str], None],
    lineage: Sequence[Segment] | None = None,
) -> Manifest | None:
    """The newest manifest whose files are all intact; None if there are no manifests.

    on_refused: called for each newer manifest that is not valid, with a message that names the file and the reason.
    lineage: only manifests in this history count; None: all count.

    Raises:
        CheckpointError: there are manifests, but none is valid. The user has to decide whether to start anew.
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
            f"none of the {len(names)} checkpoints of {storage.root} is valid; restore their files, or name "
            "another folder to start anew"
        )
    return None


def _path(name: str) -> str:
    return f"{FOLDER}/{name}.json"


def _checksum(body: dict[str, object]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
