"""Images on their way into vLLM.

vLLM is handed what its own processors would make of a prompt and its images (`MultiModalInput`): the tokens
with every placeholder, the patches, and a hash of each image, by which it tells prefixes apart that have the
same tokens. So an engine sees the patches that the learner sees, whatever image library vLLM would use.
"""

import hashlib
import importlib.util
import sys
from typing import Any

import numpy as np

from actors.images import ImageInputs


def engine_arguments(images: ImageInputs, on_gpu: bool) -> dict[str, Any]:
    """What vLLM is started with besides, for a model that is shown images."""
    if importlib.util.find_spec("torchvision") is None:
        _do_without_torchvision(images)
    return {
        "limit_mm_per_prompt": {"video": 0},
        "mm_processor_kwargs": {"max_pixels": images.processor.size["longest_edge"]},
        "mm_processor_cache_gb": 0,
        # The patches come with means and deviations taken care of; vLLM would do it again.
        "mm_device_do_normalize": False,
        # Finds how much of a GPU's memory the vision tower takes.
        "skip_mm_profiling": not on_gpu,
    }


def engine_input(tokens: list[int], files: tuple[bytes, ...], images: ImageInputs) -> Any:
    """A prompt with images, as vLLM takes it.

    Args:
        tokens: each placeholder as often as its image has tokens.
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
    """Have vLLM serve the model for images alone, in this process.

    Its module of the model takes one function from a module of transformers that imports torchvision, and the
    model's whole processor has a part for videos that is nothing without. The function is also in the module
    that needs only Pillow, and without videos the image processor is all that is asked for.
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
