"""A GPU that an engine shares with a learner rank: how much of its memory each has, and when.

The engine is told how large its KV cache is, by arithmetic. vLLM would find that out by measuring, and take what the
learner allocates meanwhile for its own. The rank may take no more than its share, and gives back what it does not
need after each batch, so that an engine that is started again finds room.

By turns (`resources.colocate`) each has nearly all of it: the engine sleeps while the rank trains, and the rank's
states are in the host's memory otherwise, but for the weights, which are sent from where they are.
"""

from typing import Any

from actors.memory import ModelShape, engine_share, kv_cache_room
from actors.model_files import without_weights
from dps_ray.config import Config

_MOVED = ("optim_states", "hp_params", "lp_grads", "contiguous_grad_buffer")  # DeepSpeed's names


def is_shared(config: Config) -> bool:
    return 0 < config.resources.rollout.gpus_per_engine < 1


def memory_of_card() -> int:
    """Bytes of this process's card."""
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory)


def kv_cache_bytes(config: Config, model: str) -> int | None:
    """Of an engine that shares its card; None where vLLM is to measure."""
    if not is_shared(config):
        return None
    return int(kv_cache_room(shape_of(model), config, memory_of_card()))


def engine_utilization(config: Config, model: str) -> float:
    """vLLM's gpu_memory_utilization, of a whole card."""
    if not is_shared(config):
        return config.rollout.gpu_memory_utilization
    return engine_share(shape_of(model), config, memory_of_card())


def bound_memory(config: Config) -> None:
    """Keep this learner rank within its share of a card that it shares."""
    if is_shared(config) and not config.resources.colocate:
        import torch

        torch.cuda.set_per_process_memory_fraction(config.resources.learner.gpus_per_rank)


def give_back_memory(config: Config) -> None:
    """Let go of what PyTorch keeps for later, on a card that is shared."""
    if is_shared(config):
        import torch

        torch.cuda.empty_cache()


def take_card(config: Config, engine: Any) -> None:
    """Bring the states of a DeepSpeed engine back, to train."""
    if config.resources.colocate:
        engine.reload_states()


def leave_card(config: Config, engine: Any) -> None:
    """Move the states of a DeepSpeed engine to the host, but for its weights."""
    if config.resources.colocate:
        from deepspeed.runtime.zero.offload_config import OffloadStateTypeEnum

        states = [OffloadStateTypeEnum(name) for name in _MOVED]
        engine.offload_states(include=states, pin_memory=is_shared(config))


def shape_of(model: str) -> ModelShape:
    """
    Args:
        model: Hugging Face folder or name, of a language model or one that is shown images.
    """
    built = without_weights(model)
    text = built.config.get_text_config()
    heads = text.num_attention_heads
    return ModelShape(
        parameters=sum(parameter.numel() for parameter in built.parameters()),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        vocabulary=text.vocab_size,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
    )
