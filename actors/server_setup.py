"""How a vLLM server must be started for a run with `rollout.servers`, and what is wrong with one that was not.

    server_arguments, server_environment ──> python -m pipelines.serve ──> vLLM's server
    Served: what a server says about itself ──> ServerSetup ──> ServedEngine (an actor for each server)

Pure: no server is called here.
"""

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from actors.engine_setup import engine_environment
from actors.memory import longest_sequence
from actors.process import environment
from dps_ray.config import Config
from dps_ray.errors import ConfigError
from dps_ray.weights import WeightsId

_LOGPROBS = "processed_logprobs"
# Of vLLM's `fork`ed or `spawn`ed workers each imports this, which registers the transfer by gloo there.
_WORKER_EXTENSION = "actors.weight_transfer.RegistersGloo"


def server_arguments(config: Config, model: str, host: str, port: int) -> list[str]:
    """Return the arguments of `vllm serve` that this run needs, on the device that its learner runs on.

    Args:
        model: Hugging Face folder or name of the start policy.
    """
    on_gpu = config.resources.learner.gpus_per_rank > 0
    arguments = [
        *("--model", model, "--host", host, "--port", str(port)),
        *("--dtype", config.model.dtype),
        *("--max-model-len", str(longest_sequence(config))),
        # The learner's ratio is relative to the distribution that is sampled from.
        *("--logprobs-mode", _LOGPROBS),
        *("--weight-transfer-config", json.dumps({"backend": server_transfer(config)})),
        "--enable-scale-out",  # tokens in, tokens out
        "--disable-log-stats",
        "--disable-uvicorn-access-log",
    ]
    if config.rollout.max_num_seqs is not None:
        arguments += ["--max-num-seqs", str(config.rollout.max_num_seqs)]
    if config.rollout.enforce_eager or not on_gpu:
        arguments += ["--enforce-eager"]
    if on_gpu:
        return [*arguments, "--gpu-memory-utilization", str(config.rollout.gpu_memory_utilization)]
    # With a random generator for each request, vLLM 0.32 cannot split a prefill on a CPU.
    return [*arguments, "--no-enable-chunked-prefill", "--worker-extension-cls", _WORKER_EXTENSION]


def server_environment(config: Config) -> dict[str, str]:
    """Return the environment variables of such a server. They are set before vLLM or torch are imported.

    Raises:
        ConfigError: the API key is not where `rollout.api_key_env` says.
    """
    on_gpu = config.resources.learner.gpus_per_rank > 0
    needed: Any = environment(threads=None) if on_gpu else engine_environment(config)
    variables = {
        **needed["env_vars"],
        "VLLM_SERVER_DEV_MODE": "1",  # without it there are no endpoints for weights
        "VLLM_LOGGING_LEVEL": "INFO",
    }
    variables.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)  # its engine is always another process
    key = api_key(config)
    return variables if key is None else {**variables, "VLLM_API_KEY": key}


def server_transfer(config: Config) -> str:
    """Return the backend that carries weights from the learner to servers."""
    return "nccl" if config.resources.learner.gpus_per_rank > 0 else "gloo"


class Served(NamedTuple):
    """What a server offers, or what a run needs of one."""

    workers: (
        int | None
    )  # processes that receive weights; None: any number, the same for all servers
    slots: int  # responses that it decodes at a time
    dtype: str
    longest: int  # tokens of the longest prompt and response
    logprobs: str  # vLLM's logprobs_mode
    transfer: str | None  # vLLM's backend for weights; None: it takes none
    tokens: bool = True  # whether it takes and returns tokens

    @classmethod
    def of(cls, vllm_config: Mapping[str, Any], workers: int, tokens: bool) -> "Served":
        """Args:
        vllm_config: as `/server_info?config_format=json` has it.
        workers: as `/get_world_size` has it.
        """
        model = vllm_config["model_config"]
        transfer = vllm_config["weight_transfer_config"]
        return cls(
            workers=workers,
            slots=int(vllm_config["scheduler_config"]["max_num_seqs"]),
            dtype=str(model["dtype"]).removeprefix("torch."),
            longest=int(model["max_model_len"]),
            logprobs=model["logprobs_mode"],
            transfer=None if transfer is None else transfer["backend"],
            tokens=tokens,
        )

    @classmethod
    def needed(cls, config: Config) -> "Served":
        return cls(
            workers=None,
            slots=1,
            dtype=config.model.dtype,
            longest=longest_sequence(config),
            logprobs=_LOGPROBS,
            transfer=server_transfer(config),
        )

    def check(self, address: str, needed: "Served") -> None:
        """Check that the server at this address was started as a run needs it.

        Raises:
            ConfigError: it was not; the message has all that is wrong, and what to start it with.
        """
        wrong, write = [], []
        if not self.tokens:
            wrong.append("it takes no tokens")
            write.append("--enable-scale-out")
        if self.transfer != needed.transfer:
            wrong.append(f"it takes weights by {self.transfer or 'no backend'}")
            write.append(f"--weight-transfer-config '{json.dumps({'backend': needed.transfer})}'")
        if self.logprobs != needed.logprobs:
            wrong.append(f"its log-probabilities are {self.logprobs}")
            write.append(f"--logprobs-mode {needed.logprobs}")
        if self.dtype != needed.dtype:
            wrong.append(f"its weights are {self.dtype}, and model.dtype={needed.dtype}")
            write.append(f"--dtype {needed.dtype}")
        if self.longest < needed.longest:
            wrong.append(
                f"it takes {self.longest} tokens, and data.max_prompt_length + rollout.max_response_length = "
                f"{needed.longest}"
            )
            write.append(f"--max-model-len {needed.longest}")
        if needed.workers not in (None, self.workers):
            wrong.append(
                f"it has {self.workers} worker processes and another server {needed.workers}"
            )
            write.append(f"as many GPUs as the others (--tensor-parallel-size {needed.workers})")
        if wrong:
            by_us = ", by python -m pipelines.serve" if needed.transfer == "gloo" else ""
            raise ConfigError(
                f"rollout.servers: {address} cannot generate for this run, since {'; '.join(wrong)}. Start it with "
                f"{' '.join(write)}{by_us}"
            )


@dataclass(frozen=True)
class ServerSetup:
    """What the actors in front of servers are given."""

    addresses: Sequence[str]
    served: Served  # what the run needs of each, and all have
    key: str | None = field(repr=False)  # that servers ask for
    model: str  # Hugging Face folder of the start policy, for its tokenizer
    wait: float  # seconds for a server to start
    transfer_timeout: float  # seconds
    logs: Path
    # Names the driver in the weight version of a server: servers outlive runs, and the weights of another run may have
    # the same WeightsId.
    driver: str = field(default_factory=lambda: secrets.token_hex(6))

    @classmethod
    def of(cls, config: Config, model: str, served: Served, key: str | None) -> "ServerSetup":
        return cls(
            addresses=config.rollout.servers,
            served=served,
            key=key,
            model=model,
            wait=config.resources.wait,
            transfer_timeout=config.timeouts.publish,
            logs=config.folder / "logs",
        )

    def name_of(self, weights: WeightsId) -> str:
        """Return what a server calls these weights."""
        return f"{self.driver}.{weights}"

    def weights_named(self, name: str) -> WeightsId | None:
        """Return the weights that a server calls so; None if this driver did not name them."""
        driver, _, weights = name.partition(".")
        return WeightsId.parse(weights) if driver == self.driver else None


def api_key(config: Config) -> str | None:
    """Return the API key of the servers.

    Raises:
        ConfigError: the environment does not have it.
    """
    name = config.rollout.api_key_env
    if name is None:
        return None
    if not os.environ.get(name):
        raise ConfigError(
            f"rollout.api_key_env={name}: the environment has no such variable; set it to the API key that the servers "
            "were started with, or write the name of the variable that has it"
        )
    return os.environ[name]
