"""Settings of the engines that generate responses: `rollout.*`."""

from typing import Annotated

from pydantic import Field

from dps_ray.setting_types import Count, Settings


class EngineSettings(Settings):
    """Settings of a vLLM engine, in training and in an evaluation."""

    max_num_seqs: Count | None = None
    """Maximum number of responses that an engine decodes at the same time. null: vLLM's default (256 on a CPU, 1,024 on
    GPUs of 70 GiB and more)."""
    gpu_memory_utilization: Annotated[float, Field(gt=0.0, le=1.0)] = 0.85
    """Share of a GPU's memory, or of an engine's fraction of a GPU, for weights and KV cache."""
    kv_cache_gib: Annotated[float, Field(gt=0.0)] = 1.0
    """Size of an engine's KV cache in GiB, on a CPU."""
    enforce_eager: bool = False
    """Skip CUDA graphs and compilation. On a CPU they are always skipped."""
    threads: Count = 1
    """CPU threads of an engine, when it runs on a CPU."""


class RolloutSettings(EngineSettings):
    group_size: Annotated[int, Field(ge=2)] = 8
    """Responses to each prompt (k)."""
    max_response_length: Count = 1024
    """Maximum number of tokens in a response. Longer ones are truncated and counted."""
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    """Sampling temperature. The learner divides its logits by it too."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Top-p used for sampling. Below 1 the engine's log-probabilities are over the likeliest tokens, and differ from the
    learner's, which are over all tokens."""
