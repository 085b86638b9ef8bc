"""What a rollout engine is given to start with, and the environment that its process needs."""

from dataclasses import dataclass
from pathlib import Path

from actors.memory import EngineMemory, longest_sequence
from actors.process import environment
from dps_ray.config import Config
from dps_ray.config.evaluation import EvaluationConfig


@dataclass(frozen=True)
class EngineSetup:
    """The settings of a rollout engine."""

    model: str  # Hugging Face folder of the start policy
    dtype: str
    gpus: float  # number of GPUs, or share of one; 0: on the CPU
    memory: EngineMemory
    max_length: int  # tokens of the longest prompt and response
    max_num_seqs: int | None  # responses decoded at a time; None: vLLM's default
    max_pixels: int | None
    enforce_eager: bool
    sleeps: bool  # the learner uses the card while the engine does not
    transfer: str  # how weights come from the learner, "gloo", "nccl" or "ipc"
    seed: int
    logs: Path

    @classmethod
    def of(cls, config: Config | EvaluationConfig, model: str, transfer: str) -> "EngineSetup":
        gpus = config.resources.rollout.gpus_per_engine
        return cls(
            model=model,
            dtype=config.model.dtype,
            gpus=gpus,
            memory=EngineMemory.of(config),
            max_length=longest_sequence(config),
            max_num_seqs=config.rollout.max_num_seqs,
            max_pixels=config.data.max_pixels,
            enforce_eager=config.rollout.enforce_eager,
            sleeps=isinstance(config, Config) and config.resources.colocate and gpus > 0,
            transfer=transfer,
            seed=config.seed,
            logs=config.folder / "logs",
        )

    @property
    def workers(self) -> int:
        """Processes among which vLLM divides the model."""
        return max(int(self.gpus), 1)

    @property
    def slots(self) -> int:
        """Responses that the engine decodes at a time."""
        # vLLM's default. It is 256 too on cards of less than 70 GiB; there vLLM itself queues what is too much.
        return self.max_num_seqs or (256 if self.gpus == 0 else 1024)


def engine_environment(config: Config | EvaluationConfig) -> dict[str, object]:
    """Return the Ray `runtime_env` of an engine."""
    # vLLM's core runs in the actor's own process: another process would outlive an actor that is killed, and keep
    # its memory on the card. On a CPU it also starts in 3 s instead of 20 s.
    extra = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    on_cpu = config.resources.rollout.gpus_per_engine == 0
    if on_cpu:
        extra["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, round(config.rollout.kv_cache_gib)))
        extra["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    return environment(threads=config.rollout.threads if on_cpu else None, extra=extra)
