"""Settings of the engines that generate responses: `rollout.*`."""

from collections import Counter
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

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


def _rounds(value: Any) -> Any:
    sizes = value if isinstance(value, list | tuple) else []
    if value is None or value == "adaptive" or (sizes and all(map(_is_count, sizes))):
        return value
    raise ValueError(
        "write how many responses each round has, such as [2, 2, 4], or adaptive, or null for all at once"
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _address(text: str) -> str:
    found = urlsplit(text.strip().rstrip("/"))
    try:
        right = found.scheme in ("http", "https") and found.hostname and found.port is not None
    except ValueError:  # a port that is no number
        right = False
    if not right or found.path or found.query or found.username:
        raise ValueError(
            f"{text!r}: write scheme, host and port of a server, such as http://10.0.0.7:8000"
        )
    return found.geturl()


Address = Annotated[str, AfterValidator(_address)]


class RolloutSettings(EngineSettings):
    group_size: Annotated[int, Field(ge=2)] = 8
    """Responses of a full group (k): the most that a prompt gets in a step."""
    rounds: Annotated[list[int] | Literal["adaptive"] | None, BeforeValidator(_rounds)] = None
    """Generate a group in rounds, and stop when its further responses are not worth their cost (`rollout.stop`). A list
    has the responses of each round and sums to `rollout.group_size`, such as [2, 2, 4]. adaptive: the beliefs decide how
    many responses each round has. null: all responses at once. Evaluations and probes always generate all at once."""
    stop: Literal["mixed", "hopeless", "both"] = "mixed"
    """When a group in rounds stops before it is full. mixed: once it has right and wrong responses. hopeless: once the
    chance that it becomes mixed is below `rollout.least_chance`; mixed groups go on (with adaptive rounds, if that is worth
    its cost). both: in either case. It has no effect without `rollout.rounds`."""
    least_chance: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.02
    """With `rollout.stop` hopeless or both: a group stops once its belief, updated by the responses so far, gives it a
    smaller chance than this of becoming mixed."""
    max_response_length: Count = 1024
    """Maximum number of tokens in a response. Longer ones are truncated and counted."""
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    """Sampling temperature. The learner divides its logits by it too."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Top-p used for sampling. Below 1 the engine's log-probabilities are over the likeliest tokens, and differ from the
    learner's, which are over all tokens."""

    servers: list[Address] = Field(default=[])
    """Addresses of vLLM servers that generate instead of engines that Ray places, such as [http://10.0.0.7:8000]. They are
    started apart from the run, with the flags that docs/engines_apart.md names or by `python -m pipelines.serve`, and
    `resources.rollout` is not used. Empty: the run starts its own engines."""
    api_key_env: str | None = None
    """Name of the environment variable that has the API key of `rollout.servers`. null: they were started without one."""

    @model_validator(mode="after")
    def _a_server_is_named_once(self) -> Self:
        twice = [one for one, count in Counter(self.servers).items() if count > 1]
        if twice:
            raise ValueError(f"rollout.servers names {twice[0]} twice: write each server once")
        if self.api_key_env is not None and not self.servers:
            raise ValueError(
                f"rollout.api_key_env={self.api_key_env} without rollout.servers: the run's own engines ask for no "
                "key; write rollout.servers too, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _rounds_make_a_full_group(self) -> Self:
        if not isinstance(self.rounds, list):
            return self
        if sum(self.rounds) != self.group_size:
            raise ValueError(
                f"rollout.rounds={self.rounds} has {sum(self.rounds)} responses in all and "
                f"rollout.group_size={self.group_size}: write rounds that sum to {self.group_size}, such as "
                f"{_example(self.group_size)}"
            )
        if self.rounds[0] < 2:
            raise ValueError(
                f"rollout.rounds={self.rounds} begins with a round of {self.rounds[0]} response, which cannot show "
                f"whether a group is mixed: begin with 2 or more, such as {_example(self.group_size)}"
            )
        return self


def _example(size: int) -> list[int]:
    """Returns rounds that make a group of this size."""
    return [2, 2, size - 4] if size > 4 else [2, size - 2] if size > 2 else [2]
