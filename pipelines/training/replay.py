"""Partial groups of the last steps, which join later batches once more (`loop.replay`).

    step t:  train on  new groups of t  +  some kept groups of t - steps ... t - 1;   then keep the partial ones of t

The choice depends on (seed, step, prompt) alone. A checkpoint holds the groups that are kept, so that a resumed run
trains on the same.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from dps_ray.config import ReplaySettings
from dps_ray.durable import (
    Manifest,
    Storage,
    Stored,
    checkpoint_folder,
    read_snapshot,
    write_snapshot,
)
from dps_ray.hashing import hash_ids, hash_key
from pipelines.rollout.training_groups import TrainingGroup

FILE = "replay.arrow"
_SALT = 0x7265706C6179  # makes these hashes independent of others


class Kept(NamedTuple):
    """A group that may be used again."""

    step: int  # in which it was new
    group: TrainingGroup


class Replay:
    """The groups that may be used again.

    Args:
        settings: None: none are kept.
    """

    def __init__(
        self, settings: ReplaySettings | None, seed: int, kept: Sequence[Kept] = ()
    ) -> None:
        self._settings, self._seed = settings, seed
        self._kept = list(kept)

    def take(self, step: int, new: int) -> list[Kept]:
        """Returns the groups to use again in a step with so many new groups. They are not kept any longer, nor are groups
        that are too old."""
        if self._settings is None:
            return []
        steps, share = self._settings.steps, self._settings.share
        recent = [kept for kept in self._kept if step - kept.step <= steps]
        ids = np.array([kept.group.prompt_id for kept in recent], dtype=np.int64)
        hashes = hash_ids(ids, hash_key(_SALT, self._seed, step)).tolist()
        # Of a prompt that is kept twice the newer group goes first.
        order = sorted(range(len(recent)), key=lambda row: (hashes[row], -recent[row].step))
        count = int(new * share / (1 - share) + 1e-9)
        chosen = order[:count]
        self._kept = [kept for row, kept in enumerate(recent) if row not in set(chosen)]
        return [recent[row] for row in sorted(chosen)]

    def add(self, step: int, groups: Sequence[TrainingGroup]) -> None:
        """Keeps the partial groups of a step."""
        if self._settings is not None:
            self._kept = [*self._kept, *(Kept(step, group) for group in groups if group.partial)]

    def saving(self, storage: Storage, folder: str) -> Callable[[], list[Stored]]:
        """Returns a function that writes the groups kept now into the folder of a checkpoint."""
        if self._settings is None:
            return list
        kept = self._kept  # lists are replaced and never changed
        return lambda: [write_snapshot(storage, f"{folder}/{FILE}", _arrays(kept))]

    @classmethod
    def load(
        cls,
        settings: ReplaySettings | None,
        seed: int,
        storage: Storage,
        manifest: Manifest | None,
    ) -> Self:
        """Returns the groups that a checkpoint keeps; None is the beginning of a run.

        Raises:
            CheckpointError: the file is missing or altered.
        """
        if settings is None or manifest is None:
            return cls(settings, seed)
        path = f"{checkpoint_folder(manifest.epoch, manifest.step)}/{FILE}"
        stored = next(file for file in manifest.files if file.path == path)
        return cls(settings, seed, _groups(read_snapshot(storage, stored)))


def _arrays(kept: Sequence[Kept]) -> dict[str, np.ndarray]:
    """The groups as flat arrays."""
    groups = [each.group for each in kept]
    responses = [tokens for group in groups for tokens in group.tokens]
    files = [file for group in groups for file in group.images]

    def flat(arrays: Sequence[np.ndarray], dtype: type) -> np.ndarray:
        return np.concatenate([np.empty(0, dtype=dtype), *arrays])

    return {
        "steps": np.array([each.step for each in kept], dtype=np.int64),
        "prompts": np.array([group.prompt_id for group in groups], dtype=np.int64),
        "prompt_lengths": np.array([len(group.prompt_tokens) for group in groups], dtype=np.int64),
        "prompt_tokens": flat([group.prompt_tokens for group in groups], np.int32),
        "responses": np.array([len(group.tokens) for group in groups], dtype=np.int64),
        "lengths": np.array([len(tokens) for tokens in responses], dtype=np.int64),
        "tokens": flat(responses, np.int32),
        "logprobs": flat([each for group in groups for each in group.logprobs], np.float32),
        # Only of episodes over several turns.
        "written": flat([mask for group in groups for mask in group.written or ()], np.uint8),
        "advantages": flat([group.advantages for group in groups], np.float64),
        "images": np.array([len(group.images) for group in groups], dtype=np.int64),
        "image_lengths": np.array([len(file) for file in files], dtype=np.int64),
        "image_files": np.frombuffer(b"".join(files), dtype=np.uint8),
    }


def _groups(arrays: dict[str, np.ndarray]) -> list[Kept]:
    """The inverse of `_arrays`."""
    prompts = _split(arrays["prompt_tokens"], arrays["prompt_lengths"])
    tokens = _nested(_split(arrays["tokens"], arrays["lengths"]), arrays["responses"])
    logprobs = _nested(_split(arrays["logprobs"], arrays["lengths"]), arrays["responses"])
    advantages = _split(arrays["advantages"], arrays["responses"])
    written: list[Any] = [None] * len(prompts)
    if len(arrays.get("written", ())):
        masks = _split(arrays["written"].astype(np.bool_), arrays["lengths"])
        written = _nested(masks, arrays["responses"])
    files = [part.tobytes() for part in _split(arrays["image_files"], arrays["image_lengths"])]
    images = _nested(files, arrays["images"])
    columns = zip(
        arrays["steps"].tolist(),
        arrays["prompts"].tolist(),
        prompts,
        tokens,
        logprobs,
        advantages,
        images,
        written,
        strict=True,
    )
    return [
        Kept(step, TrainingGroup(prompt, of_prompt, of_each, logs, values, True, tuple(own), masks))
        for step, prompt, of_prompt, of_each, logs, values, own, masks in columns
    ]


def _split(values: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    return np.split(values, np.cumsum(lengths)[:-1]) if len(lengths) else []


def _nested(values: Sequence[Any], counts: np.ndarray) -> list[list[Any]]:
    ends = np.cumsum(counts).tolist()
    return [list(values[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
