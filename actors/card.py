"""A GPU that an engine shares with a learner rank: how much of its memory each has, and when.

The engine is told the size of its KV cache, which `memory.py` computes. vLLM would measure it, and count what the
learner allocates meanwhile as its own. The rank may allocate no more than its share, and frees what it does not need
after each batch, so that an engine that is started again finds room.

With `resources.colocate` they take turns and each has nearly the whole card: the engine sleeps while the rank trains.
While the engine works, the rank's states are in the host's memory, except for its weights, from which engines are
updated. With a critic the same goes for its states, and policy and critic have theirs on the card one after the other.
"""

from dataclasses import dataclass
from typing import Any

from actors.memory import EngineMemory, LearnerMemory, ModelShape, engine_share, kv_cache_room
from actors.model_files import without_weights
from dps_ray.config import Config

_MOVED = ("optim_states", "hp_params", "lp_grads", "contiguous_grad_buffer")  # DeepSpeed's names


def memory_of_card() -> int:
    """Return the bytes of this process's card."""
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory)


def kv_cache_bytes(engine: EngineMemory, model: str) -> int | None:
    """Return the size of the KV cache of an engine that shares its card; None where vLLM is to measure."""
    if not engine.shares_card:
        return None
    return int(kv_cache_room(shape_of(model, engine.learner), engine, memory_of_card()))


def engine_utilization(engine: EngineMemory, model: str) -> float:
    """Return vLLM's gpu_memory_utilization, relative to a whole card."""
    if not engine.shares_card:
        return engine.utilization
    return engine_share(shape_of(model, engine.learner), engine, memory_of_card())


@dataclass(frozen=True)
class RankCard:
    """The use that a learner rank makes of its card; on a CPU nothing happens."""

    share: float  # of the card
    shared: bool  # with an engine
    by_turns: bool  # rank and engine use the whole card alternately

    @classmethod
    def of(cls, config: Config) -> "RankCard":
        resources = config.resources
        return cls(
            share=resources.learner.gpus_per_rank,
            shared=EngineMemory.of(config).shares_card,
            by_turns=resources.colocate,
        )

    def bound_memory(self) -> None:
        """Keep this process within its share of the card."""
        if self.shared and not self.by_turns:
            import torch

            torch.cuda.set_per_process_memory_fraction(self.share)

    def give_back_memory(self) -> None:
        """Free the memory that PyTorch keeps for later, on a card that is shared."""
        if self.shared:
            import torch

            torch.cuda.empty_cache()

    def take(self, engine: Any) -> None:
        """Bring the states of a DeepSpeed engine back to the card, to train."""
        if self.by_turns:
            engine.reload_states()

    def leave(self, engine: Any) -> None:
        """Move the states of a DeepSpeed engine, except for its weights, to the host."""
        if self.by_turns:
            from deepspeed.runtime.zero.offload_config import OffloadStateTypeEnum

            states = [OffloadStateTypeEnum(name) for name in _MOVED]
            engine.offload_states(include=states, pin_memory=self.shared)


def shape_of(model: str, rank: LearnerMemory | None = None) -> ModelShape:
    """Return the sizes of a model, and of the critic that a learner rank trains beside it.

    Args:
        model: Hugging Face folder or name of a language model or vision-language model.
        rank: None: without a critic.
    """
    built = without_weights(model)
    text = built.config.get_text_config()
    heads = text.num_attention_heads
    critic = 0
    if rank is not None and rank.critic:
        of = built if rank.critic_path is None else without_weights(rank.critic_path)
        critic = _parameters(of.base_model)
    return ModelShape(
        parameters=_parameters(built),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        vocabulary=text.vocab_size,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        critic=critic,
    )


def _parameters(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
