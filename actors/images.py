"""The images of a vision-language model: what engines, learner and the counting of tokens share.

    <image> in a prompt ──> one placeholder token ──> as many placeholders as the image's size requires
    encoded file ──> pixels, scaled and cut into patches ──> as many embeddings, one for each placeholder

Engines and learner cut the same file into the same patches with the same code, the image processor of transformers that
needs only Pillow. So the learner differentiates exactly what the engine sampled from. Files are sent encoded, as they are
in the Parquet file; patches would be ten to a hundred times larger.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dps_ray.errors import ModelError
from dps_ray.prompts.image_files import decode

SUPPORTED = ("qwen2_5_vl",)
"""Supported model types."""

# Replaces the logits of tokens that stand for images, so that no response has one. It is finite, so that a
# probability of 0 times its logarithm is 0, and large enough for any temperature.
NEVER = -1e9


class Patches(NamedTuple):
    """Images as the input of the vision tower, one after the other."""

    values: NDArray[np.float32]  # (patches, channels x frames x height x width of a patch)
    grids: NDArray[np.int64]  # (images, 3) frames, rows and columns of patches


class ImageInputs:
    """The image processor of a model, and the tokens that stand for images.

    `token` is the placeholder's id; `never_sampled` are the ids of all tokens that stand for images or videos.
    """

    def __init__(self, processor: Any, config: Any):
        self.processor = processor
        self.token = int(config.image_token_id)
        self.never_sampled = [self.token, int(config.video_token_id)]
        self._per_token: int = processor.merge_size**2  # patches

    def tokens(self, height: int, width: int) -> int:
        """Return the number of tokens of an image of this size in pixels.

        Raises:
            ValueError: one side is more than 200 times the other.
        """
        count: int = self.processor.get_number_of_image_patches(height, width) // self._per_token
        return count

    def expand(self, tokens: NDArray[np.int32], counts: Sequence[int]) -> NDArray[np.int32]:
        """Return (p,) tokens with each placeholder repeated as often as its image has tokens.

        Raises:
            ValueError: the numbers of placeholders and images differ.
        """
        places = np.flatnonzero(tokens == self.token)
        if len(places) != len(counts):
            raise ValueError(f"{len(places)} placeholders for {len(counts)} images")
        repeats = np.ones(len(tokens), dtype=np.int64)
        repeats[places] = counts
        return np.repeat(tokens, repeats)

    def patches(self, files: Sequence[bytes]) -> Patches:
        """Return the patches of the images in these encoded files, at least one."""
        found = self.processor([decode(file) for file in files], return_tensors="np")
        return Patches(
            np.asarray(found["pixel_values"], np.float32),
            np.asarray(found["image_grid_thw"], np.int64),
        )

    def blank(self) -> Patches:
        """Return the smallest image, which is black and has one token."""
        side, frames = self.processor.patch_size, self.processor.temporal_patch_size
        merge = self.processor.merge_size
        values = np.zeros((self._per_token, 3 * frames * side**2), dtype=np.float32)
        return Patches(values, np.array([[1, merge, merge]], dtype=np.int64))


def load_image_inputs(model: str, max_pixels: int | None) -> ImageInputs | None:
    """Return how this model receives images; None if it takes none, or is not of a supported type.

    Args:
        model: Hugging Face folder or name.
        max_pixels: larger images are scaled down to this many pixels; None: the model's own limit.

    Raises:
        ModelError: it takes images, and has no preprocessor_config.json.
    """
    from transformers import AutoConfig, AutoImageProcessor

    config = AutoConfig.from_pretrained(model)
    if config.model_type not in SUPPORTED:
        return None
    try:
        processor = AutoImageProcessor.from_pretrained(model, backend="pil")
    except OSError as error:
        raise ModelError(
            f"{model} takes images and has no preprocessor_config.json; copy it from the model that it was made from "
            f"({str(error).strip().splitlines()[0]})"
        ) from None
    if max_pixels is not None:
        smallest = min(processor.size["shortest_edge"], max_pixels)
        processor.size = type(processor.size)(shortest_edge=smallest, longest_edge=max_pixels)
    return ImageInputs(processor, config)
