"""Settings of the engines that generate responses: `rollout.*`."""

from typing import Annotated

from pydantic import Field

from dps_ray.setting_types import Count, Settings


class EngineSettings(Settings):
    """Of a vLLM engine, whatever it generates for."""

    max_num_seqs: Count | None = None
    """Responses an engine decodes at the same time; null: as many as vLLM does by itself (256 on a CPU, 1,024 on
    cards of 70 GiB and more)."""
    gpu_memory_utilization: Annotated[float, Field(gt=0.0, le=1.0)] = 0.85
    """Share of a GPU's memory, or of an engine's fraction of it, for its weights and KV cache."""
    kv_cache_gib: Annotated[float, Field(gt=0.0)] = 1.0
    """On a CPU: size of an engine's KV cache in GiB."""
    enforce_eager: bool = False
    """Skip CUDA graphs and compilation (always so on a CPU)."""
    threads: Count = 1
    """On a CPU: threads an engine computes with."""


class RolloutSettings(EngineSettings):
    group_size: Annotated[int, Field(ge=2)] = 8
    """Responses to each prompt (k)."""
    max_response_length: Count = 1024
    """Tokens of a response at the most; a longer one is truncated and counted."""
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    """Of sampling; the learner divides its logits by it too."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Sample from the likeliest tokens that hold this much probability; below 1 the learner's
    log-probabilities, over all tokens, differ from the engine's."""
