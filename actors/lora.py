"""Low-rank adapters instead of full training (LoRA, https://arxiv.org/abs/2106.09685).

A linear layer with weights W (out, in) computes with W + (alpha / rank) B A, and only A (rank, in) and B (out, rank)
are trained. B starts at zero, so training starts at the start policy. Only the learner uses adapters: it sends merged
weights to the engines, and writes merged weights into a checkpoint's model folder, under the model's own names.

A model with adapters is the same transformers model, with peft's layers in it:

    model.layers.0.mlp.up_proj.weight  becomes  model.layers.0.mlp.up_proj.base_layer.weight, frozen
                                           and  model.layers.0.mlp.up_proj.lora_A.default.weight, and lora_B
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from actors.model_files import without_weights
from dps_ray.config import LearnerSettings, LoraSettings
from dps_ray.errors import ModelError

_NAME = "default"  # peft's name of an adapter that has none
_VISION_TOWER = "model.visual."


class Adapter(NamedTuple):
    """The term scaling * b @ a, which is added to the weights (out, in) of a layer."""

    a: Tensor  # (rank, in)
    b: Tensor  # (out, rank)
    scaling: float


def check_targets(path: str, settings: LearnerSettings) -> None:
    """Check that the model has the layers that are to get adapters.

    Args:
        path: Hugging Face folder or name.

    Raises:
        ModelError: the model has no linear layer of a name in `learner.lora.target_modules`.
    """
    if settings.lora is not None:
        _targets(without_weights(path), settings.lora, settings.freeze_vision_tower)


def add_adapters(model: Any, settings: LoraSettings, freeze_vision_tower: bool, seed: int) -> None:
    """Add adapters to layers of this model, and freeze all other parameters.

    Adapters have the model's dtype. In bfloat16 that loses nothing, since DeepSpeed trains float32 copies of them.

    Args:
        seed: of the random initial values of A, the same on every rank.

    Raises:
        ModelError: the model has no linear layer of a name in `learner.lora.target_modules`.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=_targets(model, settings, freeze_vision_tower),
        base_model_name_or_path=model.name_or_path,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    for _, parameter in adapter_parameters(model):
        parameter.data = parameter.data.to(model.dtype)


def has_adapters(model: Any) -> bool:
    """Return whether the model has adapters."""
    return hasattr(model, "peft_config")


def plain_parameters(model: Any) -> Iterator[tuple[str, Any, Adapter | None]]:
    """Iterate over the model's original parameters, by their original names, each with the adapter of its layer."""
    layers = dict(_adapted_layers(model))
    for name, parameter in model.named_parameters():
        if _of_an_adapter(name):
            continue
        layer, inside, part = name.rpartition(".base_layer.")
        adapter = _adapter_of(layers[layer]) if inside and part == "weight" else None
        yield (f"{layer}.{part}" if inside else name), parameter, adapter


def merged(weight: Tensor, adapter: Adapter | None) -> Tensor:
    """Return weights with their adapter merged in float32, in the weights' dtype; without an adapter, the weights."""
    if adapter is None:
        return weight
    change = adapter.b.detach().float() @ adapter.a.detach().float()
    return change.mul_(adapter.scaling).add_(weight).to(weight.dtype)


def adapter_parameters(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Iterate over the parameters of adapters, by peft's names."""
    return (each for each in model.named_parameters() if _of_an_adapter(each[0]))


def save_adapter(folder: Path, model: Any, weights: dict[str, Tensor]) -> None:
    """Write a folder that peft can load with `PeftModel.from_pretrained(start policy, folder)`.

    Args:
        weights: the `adapter_parameters` by name, whole and on the CPU.
    """
    from peft.utils import SAFETENSORS_WEIGHTS_NAME
    from safetensors.torch import save_file

    model.peft_config[_NAME].save_pretrained(folder)
    named = {
        f"base_model.model.{name.replace(f'.{_NAME}.', '.')}": weight.contiguous()
        for name, weight in weights.items()
    }
    save_file(named, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})


@contextmanager
def without_adapters(model: Any) -> Iterator[None]:
    """Within this context the model computes exactly as the start policy.

    Adapters are multiplied by zero rather than skipped: under ZeRO-3, after a pass that skips layers DeepSpeed loses the
    order in which it gathers them.
    """
    layers = [layer for _, layer in _adapted_layers(model)]
    scalings = [layer.scaling[_NAME] for layer in layers]
    try:
        for layer in layers:
            layer.scaling[_NAME] = 0.0
        yield
    finally:
        for layer, scaling in zip(layers, scalings, strict=True):
            layer.scaling[_NAME] = scaling


def _targets(model: Any, settings: LoraSettings, freeze_vision_tower: bool) -> list[str]:
    """Return the full names of the layers that get an adapter."""
    head = model.get_output_embeddings()
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and module is not head
        and not (freeze_vision_tower and name.startswith(_VISION_TOWER))
    ]
    wanted = settings.target_modules
    if wanted == "all-linear":
        wanted = [name.rpartition(".")[2] for name in linear]
    chosen = {end: [name for name in linear if f".{name}".endswith(f".{end}")] for end in wanted}
    missing = [end for end, names in chosen.items() if not names]
    if not linear:
        raise ModelError(
            f"learner.lora: {type(model).__name__} has no linear layers that adapters could be for; set it to null"
        )
    if missing:
        known = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
        raise ModelError(
            f"learner.lora.target_modules: {type(model).__name__} has no linear layer {' or '.join(missing)} to adapt; "
            f"it has {known}. Write some of these names, or all-linear"
        )
    return sorted({name for names in chosen.values() for name in names})


def _adapted_layers(model: Any) -> Iterator[tuple[str, Any]]:
    if not has_adapters(model):
        return
    from peft.tuners.lora import LoraLayer

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def _adapter_of(layer: Any) -> Adapter:
    return Adapter(
        layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight, float(layer.scaling[_NAME])
    )


def _of_an_adapter(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name
