"""How a vision-language model is shown images: what engines, learner and the counting of tokens share.

    <image> in a prompt ──> one placeholder token ──> as many as the image's size gives
    encoded file ──> pixels, scaled and cut into patches ──> as many embeddings, one in the place of each

Both sides cut the same file into the same patches with the same code, the image processor of transformers
that needs only Pillow: what the engine sampled from is what the learner differentiates, to the bit. Files
travel encoded, as they lie in the Parquet file; patches would be ten to a hundred times larger.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dps_ray.errors import ModelError
from dps_ray.prompts.image_files import decode

SUPPORTED = ("qwen2_5_vl",)
"""Model types whose images are understood."""

# In the place of the logits of tokens that stand for images: no response has one. It is finite, so that a
# probability of 0 times its logarithm is 0; and large enough for any temperature.
NEVER = -1e9


class Patches(NamedTuple):
    """Images as the vision tower takes them, one after the other."""

    values: NDArray[np.float32]  # (patches, channels x frames x height x width of a patch)
    grids: NDArray[np.int64]  # (images, 3) frames, rows and columns of patches


class ImageInputs:
    """The image processor of a model, and the tokens that stand for what it gives.

    `token` is the placeholder's id; `never_sampled` are the ids of all tokens that stand for what is no text.
    """

    def __init__(self, processor: Any, config: Any):
        self.processor = processor
        self.token = int(config.image_token_id)
        self.never_sampled = [self.token, int(config.video_token_id)]
        self._per_token = processor.merge_size**2  # patches

    def tokens(self, height: int, width: int) -> int:
        """Tokens of an image of so many pixels.

        Raises:
            ValueError: one side is more than 200 times the other.
        """
        return self.processor.get_number_of_image_patches(height, width) // self._per_token

    def expand(self, tokens: NDArray[np.int32], counts: Sequence[int]) -> NDArray[np.int32]:
        """Each placeholder in (p,) tokens as often as its image has tokens.

        Raises:
            ValueError: there are not as many placeholders as images.
        """
        places = np.flatnonzero(tokens == self.token)
        if len(places) != len(counts):
            raise ValueError(f"{len(places)} placeholders for {len(counts)} images")
        repeats = np.ones(len(tokens), dtype=np.int64)
        repeats[places] = counts
        return np.repeat(tokens, repeats)

    def patches(self, files: Sequence[bytes]) -> Patches:
        """The images in these encoded files, at least one."""
        found = self.processor([decode(file) for file in files], return_tensors="np")
        return Patches(
            np.asarray(found["pixel_values"], np.float32),
            np.asarray(found["image_grid_thw"], np.int64),
        )

    def blank(self) -> Patches:
        """The smallest image, black: one token."""
        side, frames = self.processor.patch_size, self.processor.temporal_patch_size
        merge = self.processor.merge_size
        values = np.zeros((self._per_token, 3 * frames * side**2), dtype=np.float32)
        return Patches(values, np.array([[1, merge, merge]], dtype=np.int64))


def load_image_inputs(model: str, max_pixels: int | None) -> ImageInputs | None:
    """How this model is shown images; None when it takes none, or in a way that is not known here.

    Args:
        model: Hugging Face folder or name.
        max_pixels: larger images are scaled down to so many; None: as the model's own processor says.

    Raises:
        ModelError: it takes images, and does not say how.
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
