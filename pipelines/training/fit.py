"""Whether a learner rank and a rollout engine fit their cards, found out before either starts."""

from typing import Any

import ray

from actors.card import memory_of_card, shape_of
from actors.memory import (
    EngineMemory,
    LearnerMemory,
    check,
    engine_room,
    kv_bytes,
    learner_room,
    sequences_at_a_time,
)
from dps_ray.config import Config
from dps_ray.errors import ResourceError


def check_fit(config: Config, model: str, place: dict[str, Any]) -> list[str]:
    """What a learner rank and an engine take of a card, as lines for a person; none on CPUs, whose memory
    the actors of a node share.

    Args:
        model: Hugging Face folder or name.
        place: options of an actor with GPUs; the card of its node is looked at.

    Raises:
        ResourceError: one of them takes more than the card has.
    """
    if config.resources.learner.gpus_per_rank == 0:
        return []
    card = ray.get(
        ray.remote(_memory_of_card).options(**place).remote(), timeout=config.resources.wait
    )
    of_a_rank = LearnerMemory.of(config)
    shape = shape_of(model, of_a_rank)
    learner = learner_room(shape, of_a_rank, card)
    if config.rollout.servers:  # on cards of their own
        check([learner])
        return [str(learner)]
    of_an_engine = EngineMemory.of(config)
    engine = engine_room(shape, of_an_engine, card)
    check([learner, engine])
    at_once = sequences_at_a_time(shape, of_an_engine, card)
    return [
        str(learner),
        f"{engine}; room for {at_once} of the longest sequences at a time "
        f"({kv_bytes(shape, of_an_engine) / 1e3:.0f} kB a token)",
    ]


def _memory_of_card() -> int:
    import torch

    if not torch.cuda.is_available():
        raise ResourceError(
            "Ray counts a GPU on this node, and torch cannot use one there: its driver is too old, or torch is "
            "not built for it (docs/gpus.md says what is needed)"
        )
    return memory_of_card()
