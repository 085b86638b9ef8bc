"""The checkpoints of a run, and this driver's claim to the run.

    ckpt/e0007/step=00000040/
        model/                              Hugging Face folder of the policy: loads in plain transformers
        learner/                            DeepSpeed's state: optimizer, and weights in training precision
        critic/                             the same of PPO's critic
        beliefs-00003-of-00016.arrow ...    the selector's state, a file a shard
        pool.arrow                          the pool's files, and the prompts observed; see `pool_record.py`
        replay.arrow                        groups that may train again, with `loop.replay`
        start.arrow                         what was known before the run, with `selector.start`
        coordinator.json                    counters, and how often prompts failed
        config.yaml                         what it was made with
    manifests/e0007.00000040.json           makes a checkpoint of them; written last

`begin` has actors write while the next batch is rolled out, and `complete` waits for them and commits. There is no random
state to save: every random number is keyed by (seed, step, prompt).
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dps_ray.config import Config, settings
from dps_ray.durable import (
    Manifest,
    Segment,
    Storage,
    Stored,
    best,
    checkpoint_folder,
    claim_epoch,
    commit,
    load,
    manifests,
    newest_valid,
    prune,
    verify,
)
from dps_ray.errors import CheckpointError, ConfigError, OwnershipError
from dps_ray.failpoints import failpoint

# Settings, or groups of them, that may differ between a run and its continuation. They change how the run is carried
# out, or for how long, and not what its state means. Prompts are compared one by one (`pool_record.check_pool`).
FREE = (
    "folder",
    "resume",
    "loop.steps",
    "data.train",
    "data.weights",
    "data.measure",
    "resources",
    "timeouts",
    "eval",
    "probe",
    "verifier",
    "recovery",
    "checkpoint",
    "report",
    "loggers",
)
_RECORDS, _CONFIG = "coordinator.json", "config.yaml"

Saving = Callable[[], Sequence[Stored]]  # waits for files that are being written
Tell = Callable[[str], None]


def storage_of(config: Config) -> Storage:
    return Storage.at(config.checkpoint.storage or config.folder)


def to_resume(config: Config, storage: Storage, tell: Tell) -> Manifest | None:
    """Returns the checkpoint that `resume` asks for, verified; None to start from the beginning.

    Raises:
        CheckpointError: it is missing, damaged, made with other settings, or would be overwritten.
    """
    if config.resume == "never":
        if manifests(storage) or (config.folder / "metrics.jsonl").exists():
            raise CheckpointError(
                f"{config.folder} holds a run already; name another folder, or drop resume=never to continue it"
            )
        return None
    if config.resume == "auto":
        manifest = newest_valid(storage, on_refused=tell)
    else:
        manifest = _named(config.resume, storage)
    if manifest is not None:
        _check_same_run(storage, manifest, config)
    return manifest


def _named(name: str, storage: Storage) -> Manifest:
    stem = name.rpartition("/")[2].removesuffix(".json")
    if stem not in manifests(storage):
        raise CheckpointError(
            f"resume={name}: that is no checkpoint of {storage.root}; write auto, never, or one of "
            f"{', '.join(manifests(storage)) or '(there are none)'}"
        )
    manifest = load(storage, stem)
    verify(storage, manifest)
    return manifest


def _check_same_run(storage: Storage, manifest: Manifest, config: Config) -> None:
    try:
        before = settings.flatten(settings.loads(_content(storage, manifest, _CONFIG)))
    except ConfigError as error:
        raise CheckpointError(
            f"checkpoint {manifest.name} was made by another version: {error}"
        ) from None
    now = dict(settings.flatten(config))
    for key, was in before:
        if _is_free(key) or now[key] == was:
            continue
        raise CheckpointError(
            f"checkpoint {manifest.name} was made with {key}={was}, and the run has {key}={now[key]}; "
            f"set it back to continue, or name another folder to start anew"
        )


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in FREE)


def records_of(storage: Storage, manifest: Manifest) -> dict[str, Any]:
    """Returns the driver's own state in a checkpoint: progress and quarantine."""
    return dict(json.loads(_content(storage, manifest, _RECORDS)))


def model_folder(storage: Storage, manifest: Manifest) -> str:
    """Returns the folder or URI of a checkpoint's policy, which plain transformers loads."""
    path = f"{checkpoint_folder(manifest.epoch, manifest.step)}/model"
    local = storage.local(path)
    return f"{storage.root}/{path}" if local is None else str(local)


def _content(storage: Storage, manifest: Manifest, name: str) -> str:
    folder = checkpoint_folder(manifest.epoch, manifest.step)
    file = next(f for f in manifest.files if f.path == f"{folder}/{name}")
    text: str = storage.read(file).to_pybytes().decode()
    return text


def best_checkpoint(storage: Storage, lineage: Sequence[Segment] | None = None) -> Manifest | None:
    """Returns the kept checkpoint with the highest held-out accuracy; None when no checkpoint has one.

    Manifests that cannot be read are skipped. Files are not verified.

    Args:
        lineage: see `best`; None is the lineage of the newest checkpoint.
    """
    readable = []
    for name in manifests(storage):
        with suppress(CheckpointError):
            readable.append(load(storage, name))
    if not readable:
        return None
    return best(readable, lineage or readable[0].lineage)


@dataclass
class _Pending:
    step: int
    weight_version: int
    savings: Sequence[Saving]
    records: Mapping[str, Any]
    accuracy: float | None


class Checkpoints:
    """Writes the checkpoints of this driver under its epoch, until another driver claims the run.

    Args:
        base: the manifest that the run continues from; None starts it.
        fingerprint: of the training data.
        deepspeed_tag: DeepSpeed's name for the learner's state in its folder.
    """

    def __init__(
        self,
        config: Config,
        storage: Storage,
        base: Manifest | None,
        *,
        fingerprint: str,
        deepspeed_tag: str,
        tell: Tell,
    ):
        self._config = config
        self._storage = storage
        self._fingerprint = fingerprint
        self._tag = deepspeed_tag
        self._tell = tell
        self._pending: _Pending | None = None
        self.failed = 0
        self.newest = base
        self.epoch, self._lineage = self._claimed(base)
        self.best = best_checkpoint(storage, self._lineage)

    @property
    def newest_step(self) -> int | None:
        """Step of the newest checkpoint; None when there is none."""
        return None if self.newest is None else self.newest.step

    @property
    def pending_step(self) -> int | None:
        """Step of the checkpoint that is being written; None when there is none."""
        return None if self._pending is None else self._pending.step

    def begin(
        self,
        step: int,
        weight_version: int,
        save: Callable[[str], Sequence[Saving]],
        records: Mapping[str, Any],
        accuracy: float | None = None,
    ) -> None:
        """Begins to write the checkpoint of a step.

        Args:
            save: called with the folder; has actors write into it.
            records: the driver's own state, as values for JSON.
            accuracy: on held-out prompts, if it was measured at this step.
        """
        folder = checkpoint_folder(self.epoch, step)
        for left_over in self._storage.list(folder):  # by an attempt that failed
            self._storage.delete(left_over)
        self._pending = _Pending(step, weight_version, save(folder), dict(records), accuracy)

    def complete(self) -> Manifest | None:
        """Waits for the checkpoint that was begun, commits it and returns its manifest.

        Returns None if there is no such checkpoint, or if it could not be written, which is told and counted.

        Raises:
            OwnershipError: another driver has claimed the run.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return None
        try:
            manifest = self._written(pending)
            failpoint("driver.commit.before", step=pending.step)
            commit(self._storage, manifest)
            failpoint("driver.commit.after", step=pending.step)
            self.newest = manifest
            self.best = best_checkpoint(self._storage, self._lineage)
            prune(self._storage, self._config.checkpoint.keep, self._config.checkpoint.keep_best)
        except OwnershipError:
            raise
        except CheckpointError as error:
            if self.newest_step != pending.step:
                self.failed += 1
                self._tell(f"the checkpoint of step {pending.step} failed: {error}")
                return None
            self._tell(f"old checkpoints were not deleted: {error}")
        return self.newest

    def go_back(self) -> Manifest | None:
        """Drops the checkpoint that is being written, claims a new epoch, and returns the newest valid checkpoint of this
        run's own lineage; None is the beginning. A run that was told to resume an earlier checkpoint does not return to
        the later ones that it left behind."""
        self._pending = None
        self.newest = newest_valid(self._storage, self._tell, self._lineage)
        self.epoch, self._lineage = self._claimed(self.newest)
        self.best = best_checkpoint(self._storage, self._lineage)
        return self.newest

    def _claimed(self, base: Manifest | None) -> tuple[int, tuple[Segment, ...]]:
        epoch = claim_epoch(self._storage)
        before = () if base is None else base.lineage
        return epoch, (*before, Segment(epoch, 0 if base is None else base.step))

    def _written(self, pending: _Pending) -> Manifest:
        folder, config = checkpoint_folder(self.epoch, pending.step), self._config
        files = [file for saving in pending.savings for file in saving()]
        for name, text in (
            (_RECORDS, json.dumps(pending.records)),
            (_CONFIG, settings.dump(config)),
        ):
            files.append(self._storage.write(f"{folder}/{name}", text.encode()))
        every = config.checkpoint.milestone_every
        return Manifest(
            epoch=self.epoch,
            step=pending.step,
            files=tuple(files),
            lineage=self._lineage,
            dataset_fingerprint=self._fingerprint,
            config_hash=_hash(config),
            weight_version=pending.weight_version,
            belief_shards=config.resources.beliefs.shards,
            learner_ranks=config.resources.learner.ranks,
            zero_stage=config.learner.zero_stage,
            deepspeed_tag=self._tag,
            milestone=every > 0 and pending.step % every == 0,
            accuracy=pending.accuracy,
        )


def check_data(manifest: Manifest, fingerprint: str, source: Any) -> None:
    """Compares the training data with that of a checkpoint by an earlier version, which has no record of the pool.

    Raises:
        CheckpointError: the data is not what the checkpoint was made with.
    """
    if manifest.dataset_fingerprint != fingerprint:
        raise CheckpointError(
            f"data.train={source} has changed since checkpoint {manifest.name} was made by an earlier version; put it "
            "back to continue (files may be added once this version has written a checkpoint), or name another "
            "folder to start anew"
        )


def _hash(config: Config) -> str:
    """Returns a hash of the settings that may not differ between a run and its continuation."""
    kept = [(key, str(value)) for key, value in settings.flatten(config) if not _is_free(key)]
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()
