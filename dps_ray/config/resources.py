"""Settings of where actors run, and how many: `resources.*`."""

from typing import Annotated

from pydantic import Field

from dps_ray.setting_types import Count, Seconds, Settings


class RolloutPool(Settings):
    engines: Count = 1
    """Number of vLLM engines; each is an actor."""
    gpus_per_engine: Annotated[float, Field(ge=0.0)] = 0.0
    """GPUs of an engine (tensor parallel size). 0: it runs on the CPU. A fraction, such as 0.5: it shares a GPU with a
    learner rank."""
    cpus: Annotated[float, Field(ge=0.0)] = 1.0
    """CPUs reserved for an engine."""
    custom: dict[str, float] = Field(default={})
    """Custom Ray resources that an engine needs, to place it: {"cpu_node": 0.01}."""


class LearnerPool(Settings):
    ranks: Count = 1
    """Number of DeepSpeed ranks; each is an actor."""
    gpus_per_rank: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """1: train on GPUs. 0: train on the CPU. A fraction, such as 0.4: a rank shares a GPU with an engine."""
    cpus: Annotated[float, Field(ge=0.0)] = 1.0
    """CPUs reserved for a rank."""
    custom: dict[str, float] = Field(default={})
    """Custom Ray resources that a rank needs, to place it: {"cpu_node": 0.01}."""


class BeliefPool(Settings):
    shards: Count = 1
    """Number of actors that hold the beliefs. Results do not depend on it."""
    custom: dict[str, float] = Field(default={})
    """Custom Ray resources that a shard needs, to place it: {"cpu_node": 0.01}."""


class VerifierPool(Settings):
    workers: Count = 1
    """Number of actors that score responses."""
    custom: dict[str, float] = Field(default={})
    """Custom Ray resources that a verifier needs, to place it: {"cpu_node": 0.01}."""


class EngineResources(Settings):
    """Resources for generating and scoring."""

    rollout: RolloutPool = RolloutPool()
    verifiers: VerifierPool = VerifierPool()
    wait: Seconds = 300.0
    """Deadline in seconds for the cluster to have room for all actors, and for each of them to start."""


class ResourceSettings(EngineResources):
    learner: LearnerPool = LearnerPool()
    beliefs: BeliefPool = BeliefPool()
    colocate: bool = False
    """Engines and ranks that share GPUs in pairs use them in turns: engines sleep while the learner trains, and the
    optimizer and gradients are in the host's memory while engines generate. The fractions then only say that they share."""
