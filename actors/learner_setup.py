"""What a learner rank is given to start with."""

from dataclasses import dataclass
from pathlib import Path

from actors.card import RankCard
from dps_ray.config import Config, LearnerSettings, ObjectiveSettings


@dataclass(frozen=True)
class PolicySetup:
    """How the policy's model is loaded and run."""

    dtype: str
    temperature: float  # with which responses are sampled
    max_pixels: int | None
    seed: int  # of the adapters' random values

    @classmethod
    def of(cls, config: Config) -> "PolicySetup":
        return cls(
            dtype=config.model.dtype,
            temperature=config.rollout.temperature,
            max_pixels=config.data.max_pixels,
            seed=config.seed,
        )


@dataclass(frozen=True)
class LearnerSetup:
    """The settings of a learner rank."""

    model: str  # Hugging Face folder of the start policy
    policy: PolicySetup
    settings: LearnerSettings
    objective: ObjectiveSettings
    response_limit: int  # tokens of the longest possible response
    ranks: int
    on_gpu: bool
    card: RankCard
    seed: int  # of the order of minibatches
    stop_on_nonfinite: bool
    transfer: str  # how weights go to the engines, "gloo", "nccl" or "ipc"
    workers_per_engine: int
    transfer_timeout: float  # seconds
    checkpoint_timeout: float  # seconds
    logs: Path

    @classmethod
    def of(
        cls, config: Config, model: str, transfer: str, workers_per_engine: int | None = None
    ) -> "LearnerSetup":
        """Args:
        workers_per_engine: of servers; None: as the configuration places engines.
        """
        pool = config.resources.learner
        return cls(
            model=model,
            policy=PolicySetup.of(config),
            settings=config.learner,
            objective=config.objective,
            response_limit=config.rollout.max_response_length,
            ranks=pool.ranks,
            on_gpu=pool.gpus_per_rank > 0,
            card=RankCard.of(config),
            seed=config.seed,
            stop_on_nonfinite=config.recovery.on_nonfinite == "stop",
            transfer=transfer,
            workers_per_engine=workers_per_engine
            or max(int(config.resources.rollout.gpus_per_engine), 1),
            transfer_timeout=config.timeouts.publish,
            checkpoint_timeout=config.timeouts.checkpoint,
            logs=config.folder / "logs",
        )
