"""How much memory a learner rank and a rollout engine take on a card, by arithmetic.

An estimate, within about a tenth of what fake tensors measure for Qwen2.5 at 1.5B and 7B (docs/gpus.md has the table
and the measurements). Everything is in bytes, for one card.
"""

from collections.abc import Mapping
from typing import NamedTuple

from dps_ray.config import Config, LoraSettings
from dps_ray.errors import ResourceError

GB = 1e9
CHUNK = 2**27
"""Logits that are in memory at a time, whatever the vocabulary: 512 MiB in float32, and a pass needs a few such tensors."""

_PER_LOGIT = 14  # bytes that a chunk's forward and backward pass take for each of its logits
_CONTEXT = int(1.5 * GB)  # CUDA's context, NCCL's buffers, kernels
_BUCKETS = 2 * GB  # DeepSpeed reduces gradients through buffers of 5e8 elements
_ENGINE_WORK = 3 * GB  # activations of a prefill, CUDA graphs, the sampler
_ASLEEP = 3 * GB  # what an engine keeps that sleeps: CUDA's context and graphs


class ModelShape(NamedTuple):
    """What decides how much memory a language model takes."""

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    kv_heads: int
    head_dim: int


class Room(NamedTuple):
    """What one actor takes of a card, part by part, and how much of the card is its own."""

    who: str  # "a learner rank"
    parts: Mapping[str, float]
    card: float
    advice: str  # which settings make it smaller

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size / GB:.1f}" for name, size in self.parts.items() if size)
        return f"{self.who} takes about {self.total / GB:.1f} of {self.card / GB:.1f} GB: {parts}"


def learner_room(shape: ModelShape, config: Config, card: float) -> Room:
    """Of a rank, at its fullest: in the backward pass of a micro-batch of as many tokens as there may be.

    Args:
        card: bytes of a whole card.
    """
    settings, ranks = config.learner, config.resources.learner.ranks
    width = _width(config)
    stage = settings.zero_stage
    tokens = settings.max_tokens_per_micro_batch
    linear = _linear(shape)
    trained = shape.parameters if settings.lora is None else settings.lora.rank * linear.sides
    shared_by = {name: ranks if stage >= least else 1 for name, least in _SHARED_FROM.items()}
    parts = {
        "weights": width * shape.parameters / shared_by["weights"],
        "adapters": 0.0 if settings.lora is None else width * trained / shared_by["weights"],
        "gradients": (4 if stage else width) * trained / shared_by["gradients"],
        "optimizer": 12 * trained / shared_by["optimizer"],
        "activations": _activations(shape, config, tokens, width),
        "loss": _PER_LOGIT * min(CHUNK, tokens * shape.vocabulary)
        + _heads(settings.lora) * width * shape.vocabulary * shape.hidden,
        "buffers": _CONTEXT + _BUCKETS,
    }
    busy = parts["activations"] + parts["loss"]  # on the card by turns with what follows
    if config.objective.kl_coef > 0 and settings.lora is None:
        parts["reference policy"] = max(0.0, width * shape.parameters - busy)
    if settings.lora is not None and config.resources.learner.gpus_per_rank < 1:
        # An engine on the same card reads all of them where they are.
        parts["merged weights"] = max(0.0, width * linear.weights - busy)
    advice = []
    if settings.gradient_checkpointing is False:
        advice.append("learner.gradient_checkpointing=true")
    longest = config.data.max_prompt_length + config.rollout.max_response_length
    if tokens > longest:
        advice.append(f"a smaller learner.max_tokens_per_micro_batch ({longest} is the least)")
    if ranks > 1 and stage < 3:
        advice.append("learner.zero_stage=3")
    if settings.lora is None:
        advice.append("learner.lora={}")
    advice.append("more resources.learner.ranks")
    own = config.resources.learner.gpus_per_rank * card
    if config.resources.colocate:
        own = card - _ASLEEP
    return Room("a learner rank", parts, own, ", ".join(advice))


_SHARED_FROM = {"optimizer": 1, "gradients": 2, "weights": 3}
"""From which ZeRO stage on the ranks share what."""


class _Linear(NamedTuple):
    """Sums over the linear layers of a model, without its output head."""

    weights: int  # in * out
    sides: int  # in + out: the parameters of adapters of rank 1


def _linear(shape: ModelShape) -> _Linear:
    """Of a transformer with a gated MLP. Queries are taken to be as wide as the hidden state."""
    hidden, keys = shape.hidden, shape.kv_heads * shape.head_dim
    outer = [hidden, hidden, keys, keys, *3 * [shape.intermediate]]  # the other side is `hidden`
    return _Linear(
        weights=shape.layers * sum(hidden * width for width in outer),
        sides=shape.layers * sum(hidden + width for width in outer),
    )


def _heads(lora: LoraSettings | None) -> int:
    """How many tensors of the size of the output head its backward pass takes: the gathered weights, and their
    gradient if they are trained."""
    return 2 if lora is None else 1


def _activations(shape: ModelShape, config: Config, tokens: int, width: int) -> float:
    """Without recomputation each layer keeps about 16 tensors of the hidden size and 4 of the intermediate size.
    With it each keeps its input, and one at a time has those of the MLP again, with their gradients."""
    if config.learner.gradient_checkpointing is False:
        return shape.layers * (16 * shape.hidden + 4 * shape.intermediate) * tokens * width
    one = 4 * shape.hidden + 8 * shape.intermediate
    return (shape.layers * shape.hidden + one) * tokens * width


def engine_room(shape: ModelShape, config: Config, card: float) -> Room:
    """Of an engine, with a KV cache that holds a single sequence of the greatest length: the least that works."""
    settings, pool = config.rollout, config.resources.rollout
    cards = max(pool.gpus_per_engine, 1.0)
    longest = config.data.max_prompt_length + settings.max_response_length
    parts = {
        "weights": _width(config) * shape.parameters / cards,
        "work space": _ENGINE_WORK,
        "KV cache of the longest sequence": kv_bytes(shape, config) * longest / cards,
    }
    own = settings.gpu_memory_utilization * min(pool.gpus_per_engine, 1.0) * card
    if config.resources.colocate:
        own = settings.gpu_memory_utilization * card
        parts["the learner's weights"] = _stays(shape, config, card)
    advice = (
        "a larger rollout.gpu_memory_utilization, more resources.rollout.gpus_per_engine, or a smaller "
        "rollout.max_response_length"
    )
    return Room("a rollout engine", parts, own, advice)


def _stays(shape: ModelShape, config: Config, card: float) -> float:
    """Bytes of a rank that are on the card while engines generate."""
    parts = learner_room(shape, config, card).parts
    return parts["weights"] + parts["adapters"] + _CONTEXT


def kv_bytes(shape: ModelShape, config: Config) -> int:
    """Bytes of the KV cache for one token."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * _width(config)


def kv_cache_room(shape: ModelShape, config: Config, card: float) -> float:
    """Bytes that an engine has for its KV cache."""
    room = engine_room(shape, config, card)
    return room.card - room.total + room.parts["KV cache of the longest sequence"]


def engine_share(shape: ModelShape, config: Config, card: float) -> float:
    """The part of a card that an engine may use, as vLLM's gpu_memory_utilization."""
    room = engine_room(shape, config, card)
    return (room.card - room.parts.get("the learner's weights", 0.0)) / card


def sequences_at_a_time(shape: ModelShape, config: Config, card: float) -> int:
    """How many sequences of the greatest length an engine's KV cache holds at a time."""
    one = engine_room(shape, config, card).parts["KV cache of the longest sequence"]
    return int(kv_cache_room(shape, config, card) / one)


def check(rooms: list[Room]) -> None:
    """
    Raises:
        ResourceError: one takes more than it has.
    """
    for room in rooms:
        if room.total > room.card:
            raise ResourceError(f"{room}; what helps: {room.advice}")


def _width(config: Config) -> int:
    return 2 if config.model.dtype == "bfloat16" else 4
