"""Checkpoints of a run: written aside, renamed when complete, the newest few kept.

    checkpoints/step-00000020/
        model/           Hugging Face folder of the policy: loads in plain transformers
        learner/         DeepSpeed's state: optimizer, and weights in their training precision
        beliefs/         the selector's state, a file a shard
        progress.json    counters
        config.yaml      what it was made with

There is no random state to keep: all randomness is keyed by (seed, step, prompt).
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from dps_ray import settings
from dps_ray.config import Config
from dps_ray.errors import CheckpointError, ConfigError

_PREFIX = "step-"

# What may differ between a run and its continuation: it changes how the run is carried out,
# or for how long, and not what its state means.
_FREE = (
    "folder",
    "resume",
    "loop.steps",
    "resources",
    "timeouts",
    "eval",
    "probe",
    "checkpoint",
    "loggers",
)


def write(folder: Path, step: int, config: Config, save: Callable[[Path], None]) -> Path:
    """Have `save` fill a new checkpoint of this step, and make it the newest; older ones than
    `checkpoint.keep` go. Nothing is left under the final name unless `save` completed."""
    final = _home(folder) / f"{_PREFIX}{step:08}"
    aside = final.with_suffix(".writing")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save(aside)
    (aside / "config.yaml").write_text(settings.dump(config))
    shutil.rmtree(final, ignore_errors=True)
    os.replace(aside, final)
    for old in complete(folder)[: -config.checkpoint.keep]:
        shutil.rmtree(old)
    return final


def complete(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    found = _home(folder).glob(f"{_PREFIX}*")
    return sorted(path for path in found if path.suffix != ".writing")


def to_resume(config: Config) -> Path | None:
    """The checkpoint that `resume` asks for; None to start from the beginning.

    Raises:
        CheckpointError: it does not exist, was made with other settings, or would be overwritten.
    """
    present = complete(config.folder)
    if config.resume == "never":
        if present or (config.folder / "metrics.jsonl").exists():
            raise CheckpointError(
                f"{config.folder} holds a run already; name another folder, or drop resume=never to continue it"
            )
        return None
    if config.resume == "auto":
        if not present:
            return None
        path = present[-1]
    else:
        path = Path(config.resume)
        if not (path / "progress.json").exists():
            raise CheckpointError(
                f"resume={config.resume}: that is no checkpoint; write auto, never, or one of "
                f"{[str(p) for p in present]}"
            )
    _check_same_run(path, config)
    return path


def _check_same_run(path: Path, config: Config) -> None:
    try:
        before = settings.load(path / "config.yaml")
    except ConfigError as error:
        raise CheckpointError(f"{path} was made by another version: {error}") from None
    now = dict(settings.flatten(config))
    for key, was in settings.flatten(before):
        if key.startswith(_FREE) or now[key] == was:
            continue
        raise CheckpointError(
            f"{path} was made with {key}={was}, and the run has {key}={now[key]}; "
            f"set it back to continue, or name another folder to start anew"
        )


def _home(folder: Path) -> Path:
    return folder / "checkpoints"
