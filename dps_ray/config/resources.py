"""Settings of where actors run, and how many: `resources.*`."""

from typing import Annotated

from pydantic import Field

from dps_ray.setting_types import Count, Seconds, Settings


class RolloutPool(Settings):
    engines: Count = 1
    """vLLM engines, an actor each."""
    gpus_per_engine: Annotated[float, Field(ge=0.0)] = 0.0
    """GPUs of an engine (tensor parallel size); 0 runs it on the CPU. A fraction, such as 0.5, shares each card
    with a learner rank."""
    cpus: Annotated[float, Field(ge=0.0)] = 1.0
    """CPUs reserved for an engine."""
    custom: dict[str, float] = Field(default={})
    """Custom Ray resources that an engine needs, to place it: {"cpu_node": 0.01}."""


class LearnerPool(Settings):
    ranks: Count = 1
    """DeepSpeed ranks, an actor each."""
    gpus_per_rank: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """1 trains on GPUs, 0 on the CPU. A fraction, such as 0.4, shares each card with an engine."""
    cpus: Annotated[float, Field(ge=0.0)] = 1.0
    """CPUs reserved for a rank."""
    custom: dict[str, float] = Field(default={})
    """Custom Ray resources that a rank needs, to place it: {"cpu_node": 0.01}."""


class BeliefPool(Settings):
    shards: Count = 1
    """Actors that hold the beliefs; the result does not depend on their number."""
    custom: dict[str, float] = Field(default={})
    """Custom Ray resources that a shard needs, to place it: {"cpu_node": 0.01}."""


class VerifierPool(Settings):
    workers: Count = 1
    """Actors that score responses."""
    custom: dict[str, float] = Field(default={})
    """Custom Ray resources that a verifier needs, to place it: {"cpu_node": 0.01}."""


class EngineResources(Settings):
    """What generating and scoring take."""

    rollout: RolloutPool = RolloutPool()
    verifiers: VerifierPool = VerifierPool()
    wait: Seconds = 300.0
    """Seconds in which the cluster must have room for everything, and an actor must start."""


class ResourceSettings(EngineResources):
    learner: LearnerPool = LearnerPool()
    beliefs: BeliefPool = BeliefPool()
    colocate: bool = False
    """Engines and ranks that share cards in pairs have them by turns: engines sleep while the learner trains, and its
    optimizer and gradients are in the host's memory while they generate. The fractions then only say which are together."""
