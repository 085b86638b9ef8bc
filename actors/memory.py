"""How much memory a learner rank and a rollout engine take on a card, by arithmetic.

It is an estimate, within about a tenth of what fake tensors measure for Qwen2.5 at 1.5B and 7B (docs/gpus.md has the table
and the measurements). Everything is in bytes, for one card.
"""

from collections.abc import Mapping
from typing import NamedTuple

from dps_ray.config import Config, LoraSettings
from dps_ray.config.evaluation import EvaluationConfig
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
    """The sizes that decide how much memory a language model takes."""

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    kv_heads: int
    head_dim: int
    critic: int = 0  # parameters of the critic that trains beside the model; 0: there is none


class LearnerMemory(NamedTuple):
    """The settings that decide how much memory a learner rank takes."""

    width: int  # bytes of a parameter in the model's dtype
    ranks: int
    gpus: float  # share of a card that is reserved for the rank
    by_turns: bool  # rank and engine use the whole card alternately
    zero_stage: int
    lora: LoraSettings | None
    gradient_checkpointing: bool | None
    tokens: int  # of the largest micro-batch
    longest: int  # tokens of the longest sequence, or of the rank's part of it
    reference: bool  # a reference policy is in use
    sharing: int  # ranks that share a sequence
    critic: bool = False  # a critic trains beside the policy
    critic_path: str | None = None  # of its model; None: the policy's

    @classmethod
    def of(cls, config: Config) -> "LearnerMemory":
        pool, settings = config.resources.learner, config.learner
        return cls(
            width=_width(config),
            ranks=pool.ranks,
            gpus=pool.gpus_per_rank,
            by_turns=config.resources.colocate,
            zero_stage=settings.zero_stage,
            lora=settings.lora,
            gradient_checkpointing=settings.gradient_checkpointing,
            tokens=settings.max_tokens_per_micro_batch,
            longest=-(-longest_sequence(config) // settings.sequence_parallel),
            reference=config.objective.kl_coef > 0,
            sharing=settings.sequence_parallel,
            critic=config.objective.has_critic,
            critic_path=settings.critic.path,
        )


class EngineMemory(NamedTuple):
    """The settings that decide how much memory a rollout engine takes."""

    width: int  # bytes of a parameter in the model's dtype
    gpus: float  # number of cards, or share of one
    utilization: float  # vLLM's gpu_memory_utilization, relative to that share
    longest: int  # tokens of the longest sequence
    learner: LearnerMemory | None  # of the rank that uses the same card alternately

    @classmethod
    def of(cls, config: Config | EvaluationConfig) -> "EngineMemory":
        return cls(
            width=_width(config),
            gpus=config.resources.rollout.gpus_per_engine,
            utilization=config.rollout.gpu_memory_utilization,
            longest=longest_sequence(config),
            learner=LearnerMemory.of(config)
            if isinstance(config, Config) and config.resources.colocate
            else None,
        )

    @property
    def shares_card(self) -> bool:
        """Whether a learner rank uses the same card."""
        return 0 < self.gpus < 1


class Room(NamedTuple):
    """The memory that one actor takes of a card, part by part, and the memory that it has, in bytes."""

    name: str  # "a learner rank"
    parts: Mapping[str, float]
    card: float
    advice: str  # which settings make it smaller

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size / GB:.1f}" for name, size in self.parts.items() if size)
        return f"{self.name} takes about {self.total / GB:.1f} of {self.card / GB:.1f} GB: {parts}"


def learner_room(shape: ModelShape, rank: LearnerMemory, card: float) -> Room:
    """Return what a rank takes at most: in the backward pass of the largest micro-batch.

    Args:
        card: bytes of a whole card.
    """
    width, stage, tokens, lora = rank.width, rank.zero_stage, rank.tokens, rank.lora
    linear = _linear(shape)
    trained = shape.parameters if lora is None else lora.rank * linear.sides
    shared_by = {name: rank.ranks if stage >= least else 1 for name, least in _SHARED_FROM.items()}
    parts = {
        "weights": width * shape.parameters / shared_by["weights"],
        "adapters": 0.0 if lora is None else width * trained / shared_by["weights"],
        "gradients": (4 if stage else width) * trained / shared_by["gradients"],
        "optimizer": 12 * trained / shared_by["optimizer"],
        "activations": _activations(shape, rank),
        "loss": _PER_LOGIT * min(CHUNK, tokens * shape.vocabulary)
        + _heads(lora) * width * shape.vocabulary * shape.hidden,
        "buffers": _CONTEXT + _BUCKETS,
    }
    critic = _critic(shape, rank, shared_by)
    parts |= {"the critic's weights": critic["weights"], "the critic's states": critic["states"]}
    # These are freed before the following parts need memory.
    busy = parts["activations"] + parts["loss"]
    if rank.reference and lora is None:
        parts["reference policy"] = max(0.0, width * shape.parameters - busy)
    if lora is not None and rank.gpus < 1:
        # An engine on the same card reads all of them from the rank's memory.
        parts["merged weights"] = max(0.0, width * linear.weights - busy)
    if rank.by_turns:  # policy and critic have their states on the card one after the other
        of_policy = parts["gradients"] + parts["optimizer"]
        parts["the critic's states"] = max(0.0, parts["the critic's states"] - of_policy)
    own = card - _ASLEEP if rank.by_turns else rank.gpus * card
    return Room("a learner rank", parts, own, _advice(rank))


def _critic(
    shape: ModelShape, rank: LearnerMemory, shared_by: Mapping[str, int]
) -> dict[str, float]:
    """Return the bytes of a critic, all of whose parameters are trained; it has no output head to speak of, and its
    activations are those of the policy, at another time."""
    return {
        "weights": rank.width * shape.critic / shared_by["weights"],
        "states": (4 if rank.zero_stage else rank.width) * shape.critic / shared_by["gradients"]
        + 12 * shape.critic / shared_by["optimizer"],
    }


def _advice(rank: LearnerMemory) -> str:
    advice = []
    if rank.gradient_checkpointing is False:
        advice.append("learner.gradient_checkpointing=true")
    if rank.tokens > rank.longest:
        advice.append(f"a smaller learner.max_tokens_per_micro_batch ({rank.longest} is the least)")
    elif rank.ranks > rank.sharing:
        advice.append(
            "a larger learner.sequence_parallel, and with it a smaller learner.max_tokens_per_micro_batch"
        )
    if rank.ranks > 1 and rank.zero_stage < 3:
        advice.append("learner.zero_stage=3")
    if rank.critic:
        advice.append(
            "a smaller model as learner.critic.path, or objective.name=grpo, which has no critic"
        )
    if rank.lora is None:
        advice.append("learner.lora={}")
    advice.append("more resources.learner.ranks")
    return ", ".join(advice)


_SHARED_FROM = {"optimizer": 1, "gradients": 2, "weights": 3}
"""ZeRO stage from which the ranks share each part."""


class _Linear(NamedTuple):
    """Sums over the linear layers of a model, without its output head."""

    weights: int  # in * out
    sides: int  # in + out: the parameters of adapters of rank 1


def _linear(shape: ModelShape) -> _Linear:
    """Return the sums for a transformer with a gated MLP whose queries are as wide as the hidden state."""
    hidden, keys = shape.hidden, shape.kv_heads * shape.head_dim
    outer = [hidden, hidden, keys, keys, *3 * [shape.intermediate]]  # the other side is `hidden`
    return _Linear(
        weights=shape.layers * sum(hidden * width for width in outer),
        sides=shape.layers * sum(hidden + width for width in outer),
    )


def _heads(lora: LoraSettings | None) -> int:
    """Return how many tensors of the size of the output head its backward pass takes: the gathered weights, and
    their gradient if they are trained."""
    return 2 if lora is None else 1


def _activations(shape: ModelShape, rank: LearnerMemory) -> float:
    """Return the bytes of activations.

    Without recomputation each layer keeps about 16 tensors of the hidden size and 4 of the intermediate size.
    With recomputation each layer keeps its input, and one layer at a time also has the tensors of its MLP, with
    their gradients.
    """
    size = rank.tokens * rank.width
    if rank.gradient_checkpointing is False:
        return shape.layers * (16 * shape.hidden + 4 * shape.intermediate) * size
    one = 4 * shape.hidden + 8 * shape.intermediate
    return (shape.layers * shape.hidden + one) * size


def engine_room(shape: ModelShape, engine: EngineMemory, card: float) -> Room:
    """Return the least with which an engine works: its KV cache holds a single sequence of the greatest length."""
    cards = max(engine.gpus, 1.0)
    parts = {
        "weights": engine.width * shape.parameters / cards,
        "work space": _ENGINE_WORK,
        "KV cache of the longest sequence": kv_bytes(shape, engine) * engine.longest / cards,
    }
    own = engine.utilization * min(engine.gpus, 1.0) * card
    if engine.learner is not None:
        own = engine.utilization * card
        parts["the learner's weights"] = _stays(shape, engine.learner, card)
    advice = (
        "a larger rollout.gpu_memory_utilization, more resources.rollout.gpus_per_engine, or a smaller "
        "rollout.max_response_length"
    )
    return Room("a rollout engine", parts, own, advice)


def _stays(shape: ModelShape, rank: LearnerMemory, card: float) -> float:
    """Return the bytes of a rank that stay on the card while engines generate."""
    parts = learner_room(shape, rank, card).parts
    return parts["weights"] + parts["adapters"] + parts["the critic's weights"] + _CONTEXT


def kv_bytes(shape: ModelShape, engine: EngineMemory) -> int:
    """Return the bytes of the KV cache for one token."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * engine.width


def kv_cache_room(shape: ModelShape, engine: EngineMemory, card: float) -> float:
    """Return the bytes that an engine has for its KV cache."""
    room = engine_room(shape, engine, card)
    return room.card - room.total + room.parts["KV cache of the longest sequence"]


def engine_share(shape: ModelShape, engine: EngineMemory, card: float) -> float:
    """Return the part of a card that an engine may use, as vLLM's gpu_memory_utilization."""
    room = engine_room(shape, engine, card)
    return (room.card - room.parts.get("the learner's weights", 0.0)) / card


def sequences_at_a_time(shape: ModelShape, engine: EngineMemory, card: float) -> int:
    """Return how many sequences of the greatest length an engine's KV cache holds at a time."""
    one = engine_room(shape, engine, card).parts["KV cache of the longest sequence"]
    return int(kv_cache_room(shape, engine, card) / one)


def check(rooms: list[Room]) -> None:
    """Check that each actor has the memory that it takes.

    Raises:
        ResourceError: one takes more than it has.
    """
    for room in rooms:
        if room.total > room.card:
            raise ResourceError(f"{room}; what helps: {room.advice}")


def longest_sequence(config: Config | EvaluationConfig) -> int:
    """Return the tokens of the longest prompt and response."""
    response = config.rollout if isinstance(config, Config) else config
    return config.data.max_prompt_length + response.max_response_length


def _width(config: Config | EvaluationConfig) -> int:
    return 2 if config.model.dtype == "bfloat16" else 4
