"""A learner's state as files, written and read by all ranks together.

    learner/state/...   DeepSpeed's own: optimizer, and weights in their training precision; of a model with adapters
                        theirs alone, since the others stay those of the start policy
    model/...           the policy as a Hugging Face folder: loads in plain transformers
    adapter/...         its adapters in peft's format, if it has any; they are merged into `model` too
    critic/state/...    the critic's own, with PPO

An error that a rank raises between collectives is shared with all ranks before any of them gives up
(`failing_together.py`), and the engine remains usable.
"""

import re
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import deepspeed
import torch
import torch.distributed as dist

from actors.failing_together import noted, on_every_rank, reason_of
from actors.lora import adapter_parameters, has_adapters, merged, plain_parameters, save_adapter
from actors.model_files import ModelFiles
from dps_ray.durable import DEEPSPEED_TAG, Manifest, Storage, Stored, checkpoint_folder
from dps_ray.errors import CheckpointError
from dps_ray.failpoints import failpoint

POLICY, CRITIC = "learner", "critic"  # folders of their states

_UNIVERSAL = "universal"  # tag of a converted checkpoint
# In DeepSpeed's file names; files without it are rank 0's.
_OF_A_RANK = re.compile(r"zero_pp_rank_(\d+)_")


# Writing.


class Part(NamedTuple):
    """A DeepSpeed engine whose state is part of a checkpoint."""

    folder: str  # POLICY or CRITIC
    engine: Any
    state: dict[str, Any]  # further values that `load` returns, the same on every rank


def write(
    parts: Sequence[Part], files: ModelFiles, step: int, storage: Storage, folder: str
) -> Callable[[], list[Stored]]:
    """Write the parts, and of the first of them, the policy, `folder/model` and, if it has adapters, `folder/adapter`; a
    collective.

    Args:
        files: of the policy; rank 0 writes them.
        step: the training step.

    Returns:
        A function that makes the files that this rank wrote durable, hashes them, copies them to an object store, and
        returns their records. It is not a collective and does not use the engine, so a thread can call it while the
        rank trains. It may raise CheckpointError; the files that it leaves then are deleted with the next checkpoint.

    Raises:
        CheckpointError: a rank could not write. All ranks raise it, and no files remain in a shared folder.
    """
    rank, engine = dist.get_rank(), parts[0].engine
    shared = storage.local(folder)
    with ExitStack() as stack:
        target = shared or Path(stack.enter_context(TemporaryDirectory()))
        policy, adapter = target / "model", target / "adapter"
        folders = [*(target / part.folder for part in parts), policy, adapter]
        failures: list[Exception] = []
        weights: dict[str, torch.Tensor] = {}
        adapters: dict[str, torch.Tensor] = {}

        def begin() -> None:
            failpoint("learner.save", step=step, rank=rank)
            for part in parts:
                (target / part.folder).mkdir(parents=True, exist_ok=True)

        def write_policy() -> None:
            if failures:
                raise failures[0]
            if rank == 0:
                files.save(policy, engine.module, weights)
            if rank == 0 and adapters:
                save_adapter(adapter, engine.module, adapters)

        try:
            on_every_rank(begin, f"{folder} was not written")
            for part in parts:
                _save_engine(part, target / part.folder, step, failures)
            for name, whole in _gathered(engine):
                if rank == 0 and not failures:  # the others take part in the collective
                    with noted(failures):
                        failpoint("learner.save.weights", step=step, rank=rank)
                        weights[name] = whole.to("cpu", copy=_sharded(engine))
            for name, whole in _gathered_adapters(engine):
                if rank == 0 and not failures:
                    with noted(failures):
                        adapters[name] = whole.to("cpu", copy=_sharded(engine))
            on_every_rank(write_policy, f"{folder} was not written")
        except CheckpointError:  # from `on_every_rank`, so no rank is writing
            if rank == 0:
                for written in folders:
                    shutil.rmtree(written, ignore_errors=True)
            raise
        temporary = stack.pop_all()

    def adopt() -> list[Stored]:
        mine = _written_by(rank, shared)
        with temporary:
            written = [each for each in folders if any(file.is_file() for file in each.rglob("*"))]
            return [
                s for each in written for s in storage.adopt(each, f"{folder}/{each.name}", mine)
            ]

    return adopt


def _written_by(rank: int, shared: Path | None) -> Callable[[Path], bool]:
    """Return a function that tells whether this rank wrote a file; all ranks write into a shared folder."""
    if shared is None:
        return lambda file: True

    def mine(file: Path) -> bool:
        writer = _OF_A_RANK.search(file.name)
        return rank == (int(writer[1]) if writer else 0)

    return mine


def try_to_save(engine: Any, files: ModelFiles, storage: Storage, folder: str) -> None:
    """Write the files of a checkpoint below `folder`, except for optimizer and weights, and delete them again; a
    collective.

    Raises:
        CheckpointError: a rank could not write. All ranks raise it.
    """
    rank = dist.get_rank()
    here = f"{folder}/trial-{rank}"

    def write() -> list[Stored]:
        with TemporaryDirectory() as scratch:
            target = storage.local(here) or Path(scratch)
            target.mkdir(parents=True, exist_ok=True)
            (target / "empty").write_bytes(b"")
            if rank == 0:
                files.save(target / "model", engine.module, {})
            return storage.adopt(target, here)

    try:
        on_every_rank(write, f"a trial of a checkpoint, {storage.root}/{folder}, was not written")
    finally:
        # After all ranks have written, since deleting a file also deletes the folders that it leaves empty.
        with suppress(CheckpointError):
            for path in storage.list(here):
                storage.delete(path)


def whole_weights(engine: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Iterate over the parameters by their Hugging Face names, gathered one at a time, with adapters merged into them;
    under ZeRO-3 a collective."""
    for name, whole in _gathered(engine):
        yield name, whole.clone() if _sharded(engine) else whole


def _gathered(engine: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Like `whole_weights`, but under ZeRO-3 a parameter is whole only until the next one is taken."""
    for name, parameter, adapter in plain_parameters(engine.module):
        parts = [parameter] if adapter is None else [parameter, adapter.a, adapter.b]
        with deepspeed.zero.GatheredParameters(parts, enabled=_sharded(engine)):
            yield name, merged(parameter.detach(), adapter)


def _gathered_adapters(engine: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Like `_gathered`, for the parameters of adapters, by peft's names."""
    for name, parameter in adapter_parameters(engine.module):
        with deepspeed.zero.GatheredParameters([parameter], enabled=_sharded(engine)):
            yield name, parameter.detach()


def _sharded(engine: Any) -> bool:
    return bool(engine.zero_optimization_stage() == 3)


def _save_engine(saved: Part, folder: Path, step: int, failures: list[Exception]) -> None:
    """Call DeepSpeed's save, which has many barriers, and add errors of this rank between them to `failures`."""
    engine = saved.engine

    def noting(part: Callable[..., None]) -> Callable[..., None]:
        def run(*arguments: Any, **options: Any) -> None:
            with noted(failures):
                failpoint("learner.save.state", step=step, rank=dist.get_rank())
                part(*arguments, **options)

        return run

    # The two methods that collect state and write it. Neither contains a collective.
    parts = ("_save_checkpoint", "_save_zero_checkpoint")
    for name in parts:
        setattr(engine, name, noting(getattr(engine, name)))
    engine._copy_recovery_script = lambda path: (
        None
    )  # would copy two programs into every checkpoint
    try:
        engine.save_checkpoint(
            str(folder),
            tag=DEEPSPEED_TAG,
            client_state=saved.state,
            save_latest=False,
            exclude_frozen_parameters=has_adapters(engine.module),
        )
    finally:
        for name in parts:
            delattr(engine, name)  # restores the method of the class


# Reading.


def needs_conversion(manifest: Manifest, *, ranks: int, zero_stage: int) -> bool:
    """Return whether the shards of this checkpoint are for another number of ranks.

    Raises:
        CheckpointError: the checkpoint is of another ZeRO stage.
    """
    if manifest.zero_stage != zero_stage:
        raise CheckpointError(
            f"checkpoint {manifest.name} was made with learner.zero_stage={manifest.zero_stage}, and the run "
            f"has learner.zero_stage={zero_stage}; set it back to continue"
        )
    return (
        zero_stage > 0 and manifest.learner_ranks != ranks
    )  # under stage 0 all ranks are replicas


def load(
    engine: Any,
    part: str,
    *,
    storage: Storage,
    manifest: Manifest,
    epoch: int,
    convert: bool,
    timeout: float,
) -> dict[str, Any]:
    """Load the engine's state, and return the `state` that was saved with it; a collective.

    Args:
        part: folder of the state in the checkpoint, POLICY or CRITIC.
        epoch: under which temporary files may be written in a shared folder.
        convert: the checkpoint is of another number of ranks, and the engine is configured for that.
        timeout: seconds for the conversion.

    Raises:
        CheckpointError: a file has changed since it was written, or DeepSpeed cannot load it. When DeepSpeed fails on
            one rank alone the others may wait for it for ever, so the group of ranks must be ended.
    """
    rank = dist.get_rank()
    folder = f"{checkpoint_folder(manifest.epoch, manifest.step)}/{part}"
    home = storage.local(
        checkpoint_folder(epoch, manifest.step)
    )  # is deleted later if this process dies
    with ExitStack() as stack:

        def prepare() -> tuple[Path, str] | None:
            if home and rank > 0:
                return None
            if home:
                home.mkdir(parents=True, exist_ok=True)
            scratch = Path(stack.enter_context(TemporaryDirectory(dir=home, prefix="loading-")))
            where = storage.fetch(manifest.under(folder), folder, scratch / "fetched")
            if not convert:
                return where, manifest.deepspeed_tag
            _convert(where / manifest.deepspeed_tag, scratch / _UNIVERSAL, timeout)
            return scratch, _UNIVERSAL

        prepared = on_every_rank(prepare, f"{folder} cannot be read")
        where, tag = prepared[rank] or prepared[0] or (None, None)
        failpoint("learner.load", epoch=epoch, rank=rank)
        try:
            # With adapters the frozen parameters are not in the checkpoint: they are the start policy's.
            whole = not has_adapters(engine.module)
            path, state = engine.load_checkpoint(str(where), tag=tag, load_module_strict=whole)
        except Exception as error:
            traceback.print_exc()
            raise CheckpointError(
                f"{folder} cannot be taken by DeepSpeed on rank {rank}: {reason_of(error)}"
            ) from error
        if path is None:
            raise CheckpointError(f"DeepSpeed found no checkpoint in {where}/{tag}")
        dist.barrier()  # all ranks have read before temporary files are deleted
    return dict(state)


def _convert(source: Path, target: Path, timeout: float) -> None:
    """Write DeepSpeed's universal checkpoint, which has optimizer state by parameter, for any number of ranks."""
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal"]
    command += ["--input_folder", str(source), "--output_folder", str(target)]
    command += ["--inject_missing_state"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise CheckpointError(
            f"{source} was not converted for another number of ranks within {timeout:.0f} s; raise "
            "timeouts.checkpoint"
        ) from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise CheckpointError(f"{source} was not converted for another number of ranks: {reason}")
