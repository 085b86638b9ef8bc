"""Images as input of vLLM.

vLLM receives what its own processors would make of a prompt and its images (`MultiModalInput`): the tokens with every
placeholder, the patches, and a hash of each image, which distinguishes prefixes that have the same tokens. So an engine
has the same patches as the learner, whatever image library vLLM would use.
"""

import hashlib
import importlib.util
import sys
from typing import Any

import numpy as np

from actors.images import ImageInputs


def engine_arguments(images: ImageInputs, on_gpu: bool) -> dict[str, Any]:
    """Return additional arguments of vLLM for a vision-language model."""
    if importlib.util.find_spec("torchvision") is None:
        _do_without_torchvision(images)
    return {
        "limit_mm_per_prompt": {"video": 0},
        "mm_processor_kwargs": {"max_pixels": images.processor.size["longest_edge"]},
        "mm_processor_cache_gb": 0,
        # The patches are normalized already; vLLM would do it again.
        "mm_device_do_normalize": False,
        # The profile measures the memory that the vision tower takes on a GPU.
        "skip_mm_profiling": not on_gpu,
    }


def engine_input(tokens: list[int], files: tuple[bytes, ...], images: ImageInputs) -> Any:
    """Return a prompt with images, as vLLM takes it.

    Args:
        tokens: with each placeholder repeated as often as its image has tokens.
        files: the encoded images, in the order of their placeholders.
    """
    import torch
    from vllm.inputs import mm_input
    from vllm.multimodal.inputs import (
        MultiModalFieldConfig,
        MultiModalKwargsItems,
        PlaceholderRange,
    )

    patches = images.patches(files)
    lengths = patches.grids.prod(-1)
    per_token = images.processor.merge_size**2
    places = np.flatnonzero(np.array(tokens) == images.token)
    counts = lengths // per_token
    firsts = places[np.cumsum(counts) - counts]
    fields = {
        "pixel_values": MultiModalFieldConfig.flat_from_sizes("image", torch.from_numpy(lengths)),
        "image_grid_thw": MultiModalFieldConfig.batched("image", keep_on_cpu=True),
    }
    values = {
        "pixel_values": torch.from_numpy(patches.values),
        "image_grid_thw": torch.from_numpy(patches.grids),
    }
    return mm_input(
        tokens,
        MultiModalKwargsItems.from_hf_inputs(values, fields),
        mm_hashes={"image": [hashlib.sha256(file).hexdigest() for file in files]},
        mm_placeholders={
            "image": [
                PlaceholderRange(offset=int(first), length=int(count))
                for first, count in zip(firsts, counts, strict=True)
            ]
        },
    )


def _do_without_torchvision(images: ImageInputs) -> None:
    """Make vLLM serve the model without videos in this process, so that it does not need torchvision.

    vLLM's module of the model takes one function from a module of transformers that imports torchvision, and the model's
    whole processor has a part for videos that needs torchvision. The function is also in the module that needs only
    Pillow, and without videos only the image processor is used.
    """
    from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as without

    sys.modules.setdefault("transformers.models.qwen2_vl.image_processing_qwen2_vl", without)
    from vllm.model_executor.models import ModelRegistry
    from vllm.model_executor.models import qwen2_5_vl as model
    from vllm.multimodal import MULTIMODAL_REGISTRY

    class ImagesAlone(model.Qwen2_5_VLProcessingInfo):
        def get_image_processor(self, **kwargs: object) -> Any:
            return images.processor

        def get_supported_mm_limits(self) -> dict[str, int | None]:
            return {"image": None}

        def get_supported_mm_processor_kwargs(self) -> dict[str, set[str]]:
            return {"images_kwargs": {"max_pixels", "size"}}

        def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Any) -> dict[str, int]:
            return {"image": self.get_max_image_tokens()}

    MULTIMODAL_REGISTRY.register_processor(
        model.Qwen2_5_VLMultiModalProcessor,
        info=ImagesAlone,
        dummy_inputs=model.Qwen2_5_VLDummyInputsBuilder,
    )(model.Qwen2_5_VLForConditionalGeneration)
    ModelRegistry.register_model(
        "Qwen2_5_VLForConditionalGeneration", model.Qwen2_5_VLForConditionalGeneration
    )
