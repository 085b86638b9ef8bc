"""A learner's state as files, written and read by all ranks together.

    learner/state/...   DeepSpeed's own: optimizer, and weights in their training precision
    model/...           the policy as a Hugging Face folder: loads in plain transformers

A disk may be full for one rank alone, and what the others do next is to wait for it in a collective. So
what a rank meets while it writes is told to all before any of them gives up, and the engine can be used
after it.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import deepspeed
import torch
import torch.distributed as dist
from safetensors import SafetensorError

from actors.learner_rank import TAG
from dps_ray.durable import Manifest, Storage, Stored, checkpoint_folder
from dps_ray.errors import CheckpointError
from dps_ray.failpoints import failpoint

T = TypeVar("T")

_UNIVERSAL = "universal"  # tag of a converted checkpoint


# Writing.


def save(
    engine: Any, processors: Sequence[Any], state: dict[str, Any], storage: Storage, folder: str
) -> list[Stored]:
    """Write `folder/learner` and `folder/model`; a collective.

    Args:
        processors: of the policy, its tokenizer and what else it is served with; rank 0 writes them.
        state: what else `load` is to give back, the same on every rank; "version" is the training step.

    Returns:
        The files that this rank answers for: in a shared folder rank 0 does for all.

    Raises:
        CheckpointError: a rank could not write. All ranks raise it, and nothing is left in a shared folder.
    """
    rank = dist.get_rank()
    shared = storage.local(folder)
    with ExitStack() as stack:
        target = shared or Path(stack.enter_context(TemporaryDirectory()))
        own, policy = target / "learner", target / "model"
        failures: list[Exception] = []
        weights: dict[str, torch.Tensor] = {}

        def begin() -> None:
            failpoint("learner.save", step=state["version"], rank=rank)
            own.mkdir(parents=True, exist_ok=True)

        def write_policy() -> None:
            if failures:
                raise failures[0]
            if rank == 0:
                engine.module.save_pretrained(policy, state_dict=weights)
                for processor in processors:
                    processor.save_pretrained(policy)

        def adopt() -> list[Stored]:
            if shared and rank > 0:
                return []
            written = [part for part in (own, policy) if any(f.is_file() for f in part.rglob("*"))]
            return [s for part in written for s in storage.adopt(part, f"{folder}/{part.name}")]

        try:
            _on_every_rank(begin, f"{folder} was not written")
            failures += _save_engine(engine, own, state)
            for name, tensor in whole_weights(engine):
                if rank == 0:
                    weights[name] = tensor.cpu()
            _on_every_rank(write_policy, f"{folder} was not written")
            return _on_every_rank(adopt, f"{folder} was not made durable")[rank]
        except CheckpointError:  # of `_on_every_rank`: nobody writes any more
            if rank == 0:
                shutil.rmtree(own, ignore_errors=True)
                shutil.rmtree(policy, ignore_errors=True)
            raise


def whole_weights(engine: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters by their Hugging Face names, made whole one at a time: under ZeRO-3 a collective."""
    sharded = engine.zero_optimization_stage() == 3
    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=sharded):
            whole = parameter.detach()
            yield name, whole.clone() if sharded else whole


def _save_engine(engine: Any, folder: Path, state: dict[str, Any]) -> list[Exception]:
    """DeepSpeed's save, which is full of barriers: what went wrong on this rank is returned."""
    failures: list[Exception] = []
    writer = engine.checkpoint_engine
    write = writer.save

    def write_or_note(state_dict: Any, path: str) -> None:
        try:
            write(state_dict, path)
        except (OSError, RuntimeError) as error:  # torch wraps the system's error
            failures.append(error)

    writer.save = write_or_note
    engine._copy_recovery_script = lambda path: None  # two programs into every checkpoint
    try:
        engine.save_checkpoint(str(folder), tag=TAG, client_state=state, save_latest=False)
    finally:
        writer.save = write
    return failures


# Reading.


def needs_conversion(manifest: Manifest, *, ranks: int, zero_stage: int) -> bool:
    """Whether the shards of this checkpoint are for another number of ranks.

    Raises:
        CheckpointError: it is of another ZeRO stage.
    """
    if manifest.zero_stage != zero_stage:
        raise CheckpointError(
            f"checkpoint {manifest.name} was made with learner.zero_stage={manifest.zero_stage}, and the run "
            f"has learner.zero_stage={zero_stage}; set it back to continue"
        )
    return zero_stage > 0 and manifest.learner_ranks != ranks  # under stage 0 ranks are replicas


def load(
    engine: Any, storage: Storage, manifest: Manifest, *, epoch: int, convert: bool, timeout: float
) -> dict[str, Any]:
    """Read the engine's state back, and return the `state` that was saved with it; a collective.

    Args:
        epoch: under which a shared folder may be used for what is of no use afterwards.
        convert: the checkpoint is of another number of ranks, and the engine was configured for that.
        timeout: seconds for the conversion.

    Raises:
        CheckpointError: a file is not as it was written, or DeepSpeed cannot take it. When DeepSpeed fails on
            one rank alone the others may wait for it for ever, so the group is of no use afterwards.
    """
    rank = dist.get_rank()
    folder = f"{checkpoint_folder(manifest.epoch, manifest.step)}/learner"
    home = storage.local(checkpoint_folder(epoch, manifest.step))  # swept, should this process die
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

        prepared = _on_every_rank(prepare, f"{folder} cannot be read")
        where, tag = prepared[rank] or prepared[0] or (None, None)
        try:
            path, state = engine.load_checkpoint(str(where), tag=tag)
        except (OSError, RuntimeError, LookupError, ValueError, AssertionError) as error:
            raise CheckpointError(f"{folder} cannot be taken by DeepSpeed: {error}") from error
        if path is None:
            raise CheckpointError(f"DeepSpeed found no checkpoint in {where}/{tag}")
        dist.barrier()  # all have read before what is temporary goes
    return dict(state)


def _convert(source: Path, target: Path, timeout: float) -> None:
    """DeepSpeed's universal checkpoint of a checkpoint: optimizer state by parameter, of no number of ranks."""
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


# Both.


def _on_every_rank(work: Callable[[], T], failed: str) -> list[T]:
    """What this work, without collectives, gave on each rank. If it failed on one it has failed on all.

    Raises:
        CheckpointError: `failed`, on which rank and why.
    """
    result: T | None = None
    own: Exception | None = None
    try:
        result = work()
    except (OSError, RuntimeError, SafetensorError) as error:
        own = error
    outcomes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(outcomes, (result, own and str(own)))
    reasons = [f"rank {rank}: {why}" for rank, (_, why) in enumerate(outcomes) if why is not None]
    if reasons:
        raise CheckpointError(f"{failed} by the learner ({'; '.join(reasons)})") from own
    return [found for found, _ in outcomes]
