"""Rollout: vLLM engines that answer prompts k times, with the log-probability of every token.

`RolloutEngine` is the actor, one to an engine. `Rollouts` is the driver's view of all of them: it
deals prompts to engines and collects groups.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from actors.calls import collect
from actors.process import environment, log_to
from dps_ray.config import Config
from dps_ray.errors import EngineError
from dps_ray.groups import Group, Response


@dataclass(frozen=True)
class Sampling:
    """How to answer: k responses to each prompt."""

    responses: int
    temperature: float
    top_p: float
    max_tokens: int
    # With the prompt's id this seeds its responses, so that they do not depend on which engine
    # answers, nor on a restart in between.
    seed: str


@dataclass(frozen=True)
class Request:
    prompt_id: int
    tokens: NDArray[np.int32]


@ray.remote
class RolloutEngine:
    """One vLLM engine.

    The four weight-update methods are what vLLM's trainer engines call through `EngineClient`.
    """

    def __init__(self, config: Config, model: str, transfer: str, name: str):
        log_to(config.folder / "logs", name)
        from vllm import LLM
        from vllm.config import WeightTransferConfig

        import actors.weight_transfer  # noqa: F401  registers the CPU backend with vLLM

        gpus = config.resources.rollout.gpus_per_engine
        self._llm = LLM(
            model,
            dtype=config.model.dtype,
            tensor_parallel_size=max(gpus, 1),
            # The actor holds all of the engine's GPUs: its workers are its own processes.
            distributed_executor_backend="mp" if gpus > 1 else None,
            gpu_memory_utilization=config.rollout.gpu_memory_utilization,
            # Compiling pays on GPUs; on a CPU it costs ten seconds and gains nothing.
            enforce_eager=config.rollout.enforce_eager or gpus == 0,
            max_model_len=config.data.max_prompt_length + config.rollout.max_response_length,
            max_num_seqs=config.rollout.max_num_seqs,
            # Of the distribution that is sampled from, temperature and top-p included: what the
            # learner's ratio is against.
            logprobs_mode="processed_logprobs",
            weight_transfer_config=WeightTransferConfig(backend=transfer),
            seed=config.seed,
            disable_log_stats=True,
            # With a generator to each request, vLLM 0.32 cannot split a prefill on a CPU.
            enable_chunked_prefill=gpus > 0,
        )
        self._tokenizer = self._llm.get_tokenizer()
        self._llm.update_weight_version("0")

    def ready(self) -> bool:
        return True

    def weight_version(self) -> int:
        """The version of the weights that vLLM itself says it serves."""
        return int(self._llm.get_weight_version())

    def generate(self, requests: list[Request], sampling: Sampling) -> list[Group]:
        """A group for each request, in their order."""
        from vllm import SamplingParams

        version = self.weight_version()
        outputs = self._llm.generate(
            [{"prompt_token_ids": request.tokens.tolist()} for request in requests],
            [
                SamplingParams(
                    n=sampling.responses,
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    max_tokens=sampling.max_tokens,
                    seed=_seed(sampling.seed, request.prompt_id),
                    logprobs=0,
                    flat_logprobs=True,
                    detokenize=False,
                )
                for request in requests
            ],
            use_tqdm=False,
        )
        return [
            Group(request.prompt_id, request.tokens, self._responses(output), version)
            for request, output in zip(requests, outputs, strict=True)
        ]

    def _responses(self, output: Any) -> list[Response]:
        texts = self._tokenizer.batch_decode(
            [list(o.token_ids) for o in output.outputs], skip_special_tokens=True
        )
        return [
            Response(
                tokens=np.array(o.token_ids, dtype=np.int32),
                logprobs=np.array(o.logprobs.logprobs, dtype=np.float32),
                text=text,
                truncated=o.finish_reason == "length",
            )
            for o, text in zip(output.outputs, texts, strict=True)
        ]

    def init_weight_transfer_engine(self, request: Any) -> None:
        self._llm.init_weight_transfer_engine(request)

    def start_weight_update(self) -> None:
        self._llm.start_weight_update()

    def update_weights(self, request: Any) -> None:
        self._llm.update_weights(request)

    def finish_weight_update(self, version: str) -> None:
        self._llm.finish_weight_update(weight_version=version)
        # An update leaves the cached prefixes as they were computed with the old weights.
        self._llm.reset_prefix_cache()


class Rollouts:
    """All rollout engines, as the driver uses them."""

    def __init__(self, config: Config, model: str, transfer: str):
        pool = config.resources.rollout
        on_cpu = pool.gpus_per_engine == 0
        self.engines = [
            RolloutEngine.options(  # type: ignore[attr-defined]
                num_cpus=pool.cpus,
                num_gpus=pool.gpus_per_engine,
                runtime_env=environment(
                    threads=config.rollout.threads if on_cpu else None,
                    extra=_cpu_engine(config.rollout.kv_cache_gib) if on_cpu else None,
                ),
            ).remote(config, model, transfer, f"rollout-{index}")
            for index in range(pool.engines)
        ]
        self._timeout = config.timeouts.generate
        self._wait = config.resources.wait

    def wait_until_ready(self) -> None:
        """
        Raises:
            EngineError: an engine has not started within `resources.wait` seconds.
        """
        collect([e.ready.remote() for e in self.engines], self._wait, "rollout engine", "start")

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Group]:
        """A group for each request, in their order; the work is dealt to the engines evenly.

        Raises:
            EngineError: an engine failed, or gave no answer within `timeouts.generate` seconds.
        """
        shares = [list(requests[i :: len(self.engines)]) for i in range(len(self.engines))]
        calls = [
            e.generate.remote(s, sampling) for e, s in zip(self.engines, shares, strict=True) if s
        ]
        answers = collect(calls, self._timeout, "rollout engine", "generate")
        groups = {group.prompt_id: group for answer in answers for group in answer}
        return [groups[request.prompt_id] for request in requests]

    def check_version(self, expected: int) -> None:
        """
        Raises:
            EngineError: an engine serves other weights than the learner's.
        """
        calls = [e.weight_version.remote() for e in self.engines]
        versions = collect(calls, self._timeout, "rollout engine", "tell its weight version")
        for index, version in enumerate(versions):
            if version != expected:
                raise EngineError(
                    f"rollout engine {index} serves weight version {version}, "
                    f"the learner published {expected}"
                )


def _seed(seed: str, prompt_id: int) -> int:
    digest = hashlib.blake2b(f"{seed}:{prompt_id}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") >> 1  # vLLM adds the response's index to it


def _cpu_engine(kv_cache_gib: float) -> dict[str, str]:
    return {
        # The engine in the actor's own process starts in 3 s and not in 20.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(kv_cache_gib))),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
