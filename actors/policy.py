"""The policy as the learner computes with it: a language model, or a vision-language model.

A vision-language model receives the images of each sequence, which are cut into patches when they are needed. Under
ZeRO a pass through its vision tower is a collective, so a micro-batch without images gets an additional sequence with a
blank image and weight zero.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from actors.images import ImageInputs, Patches, load_image_inputs
from actors.learner_setup import PolicySetup
from actors.lora import add_adapters
from actors.model_files import ModelFiles
from actors.scoring import answer_with_scores
from actors.sequence_parallel import SequenceParallel
from dps_ray.config import LoraSettings
from dps_ray.objective.grpo import PaddedTensors, TokenScores, to_tensors
from dps_ray.objective.trajectories import Images, Trajectories, pad, with_blank

_ROOM = 2 * 2**30  # bytes of patches that a rank caches while it trains on a batch


class Inputs(NamedTuple):
    """A micro-batch on the device."""

    tensors: PaddedTensors
    images: dict[str, torch.Tensor]  # the model's inputs for images; empty for a language model


class Policy:
    """Loads the model in `path`, and runs a model with whatever weights it is given.

    Args:
        path: Hugging Face folder or name.
        sequence: the ranks that share each sequence; None: every rank has its own.
    """

    def __init__(
        self,
        setup: PolicySetup,
        path: str,
        device: torch.device,
        sequence: SequenceParallel | None = None,
    ):
        from transformers import AutoTokenizer

        self._path = path
        self._device = device
        self.sequence = sequence or SequenceParallel()
        """The ranks that share each sequence."""
        self._dtype = getattr(torch, setup.dtype)
        self._temperature = setup.temperature
        self._seed = setup.seed
        self._images = load_image_inputs(path, setup.max_pixels)
        processors = [AutoTokenizer.from_pretrained(path)]
        if self._images is not None:
            processors.append(self._images.processor)
            self._cut = _Cut(self._images)
        self.files = ModelFiles(path, processors)
        """Files that a folder of the model has besides its weights."""

    def load(self, freeze_vision_tower: bool = False, lora: LoraSettings | None = None) -> Any:
        """Return the model with the weights of the folder, on the CPU, for use with `scores`.

        Args:
            lora: add adapters with these settings, and train nothing else.

        Raises:
            ModelError: the model does not have the layers that are to be adapted, or ranks cannot share its sequences.
        """
        from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

        kind = AutoModelForCausalLM if self._images is None else AutoModelForImageTextToText
        model = kind.from_pretrained(self._path, dtype=self._dtype)
        if freeze_vision_tower and self._images is not None:
            model.model.visual.requires_grad_(False)
        if lora is not None:
            add_adapters(model, lora, freeze_vision_tower, self._seed)
        if not answer_with_scores(model, self._images.never_sampled if self._images else ()):
            print(
                f"{type(model).__name__} changes its logits after the output head, so they are made for whole "
                "sequences: learner.max_tokens_per_micro_batch bounds the memory they take"
            )
        self.sequence.adopt(model)
        return model

    def inputs(self, trajectories: Trajectories, rows: NDArray[np.int64]) -> Inputs:
        """Return these trajectories as a micro-batch; see `pad`."""
        batch = pad(trajectories, rows)
        if self._images is None:
            return Inputs(to_tensors(batch, self._device), {})
        patches = self._cut.of(trajectories, rows)
        if patches is None:
            batch, patches = with_blank(batch, self._images.token), self._images.blank()
        tensors = to_tensors(batch, self._device)
        return Inputs(
            tensors,
            {
                "pixel_values": torch.from_numpy(patches.values).to(self._device),
                "image_grid_thw": torch.from_numpy(patches.grids).to(self._device),
                # The model derives the positions of all tokens from the places of images.
                "mm_token_type_ids": (tensors.tokens == self._images.token).int(),
            },
        )

    def scores(self, model: Any, inputs: Inputs, entropy_gradient: bool = False) -> TokenScores:
        """Return the scores of every response token, (b, t - 1) and zero elsewhere.

        Args:
            model: from `load`, or its DeepSpeed engine.
        """
        options = {"temperature": self._temperature, "entropy_gradient": entropy_gradient}
        return TokenScores(*self.at_responses(model, inputs, **options))

    def at_responses(self, model: Any, inputs: Inputs, **options: Any) -> list[torch.Tensor]:
        """Return what a model says of every response token, each (b, t - 1) and zero elsewhere.

        Args:
            model: a model, or its DeepSpeed engine, that returns a tuple of values for the tokens that it is to score.
            options: further arguments of its forward pass.
        """
        tensors = inputs.tensors
        mine = self.sequence.own_slice(tensors.tokens, tensors.response)
        found = model(
            input_ids=mine.tokens,
            targets=mine.targets,
            scored=mine.scored,
            **mine.positions,
            **options,
            **inputs.images,
        )
        padded = (
            torch.zeros(mine.scored.shape, device=part.device).masked_scatter(mine.scored, part)
            for part in found
        )
        return [self.sequence.whole(part, tensors.tokens.shape[1] - 1) for part in padded]


class _Cut:
    """Cuts the images of a batch into patches, and caches them as far as there is room: the responses to one prompt are
    in different micro-batches, and each is used twice."""

    def __init__(self, inputs: ImageInputs):
        self._inputs = inputs
        self._batch: Images | None = None
        self._kept: dict[int, Patches] = {}
        self._room = 0  # bytes

    def of(self, trajectories: Trajectories, rows: NDArray[np.int64]) -> Patches | None:
        """Return the images of these trajectories in the order of the rows; None if they have none."""
        if trajectories.images is None:
            return None
        if trajectories.images is not self._batch:
            self._batch, self._kept, self._room = trajectories.images, {}, _ROOM
        found = [
            self._one(self._batch, index) for row in rows for index in self._batch.of(int(row))
        ]
        if not found:
            return None
        values, grids = zip(*found, strict=True)
        return Patches(np.concatenate(values), np.concatenate(grids))

    def _one(self, batch: Images, index: int) -> Patches:
        if index in self._kept:
            return self._kept[index]
        patches = self._inputs.patches([batch.file(index)])
        if patches.values.nbytes <= self._room:
            self._kept[index] = patches
            self._room -= patches.values.nbytes
        return patches
