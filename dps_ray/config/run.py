"""Settings of the loop and of what it does beside training: `loop.*`, `eval.*`, `probe.*`, `checkpoint.*`,
`recovery.*`, `timeouts.*` and `report.*`."""

from typing import Annotated, Literal

from pydantic import Field

from dps_ray.setting_types import HOME, Count, Natural, NullableSettings, Seconds, Settings


class ReplaySettings(NullableSettings):
    """Replay: partial groups of the last steps join later batches, each at most once."""

    steps: Count = 4
    """Largest age of a group, in steps, at which it is used again."""
    share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.25
    """Share of the groups in a batch that are used again, at most."""


class LoopSettings(Settings):
    steps: Count = 60
    """Number of training steps."""
    batch_size: Count = 64
    """Prompts in the batch of a step (B)."""
    filter_groups: bool = False
    """Train on partial groups only, and roll out more prompts until there are B partial groups (see `loop.refill`). With
    `method=uniform` this is Dynamic Sampling (DAPO)."""
    refill: Literal["missing", "batch"] = "missing"
    """With `loop.filter_groups`, how many more prompts are rolled out at a time. missing: as many as partial groups are
    missing. batch: B, as DAPO was published; beliefs observe all partial groups, and the first B train."""
    max_gen_batches: Count = 10
    """With `loop.filter_groups`, a step tries at most this many times B prompts. It then trains on the groups it has."""
    max_staleness: Literal[0, 1] = 0
    """0: each batch is sampled with the newest weights; engines and learner take turns. 1: the next batch is sampled while
    the learner trains, with weights that are one step older (see `objective.importance_cap`)."""
    replay: ReplaySettings | None = None
    """Train again on partial groups of the last steps: `loop.replay={}` for the defaults, or
    `loop.replay={steps: 4, share: 0.25}`. `objective.importance_cap` corrects for the policy that sampled them. null: train
    on each group once."""


class EvalSettings(Settings):
    every: Natural = 0
    """Steps between evaluations on the held-out prompts. 0: evaluate only before and after training."""
    samples: Count = 4
    """Responses sampled for each test prompt (the N of mean@N)."""
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    """Temperature used for evaluation sampling."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Top-p used for evaluation sampling."""
    max_prompts: Count | None = None
    """Number of test prompts to use, from the first. null: all."""


class ProbeSettings(Settings):
    """A probe rolls out a uniform sample of the pool, to measure what uniform selection would give now. Its rollouts are
    counted; beliefs and learner do not see it."""

    every: Natural = 10
    """Steps between probes. 0: no probes."""
    prompts: Count = 64
    """Prompts in a probe."""


class CheckpointSettings(Settings):
    every: Natural = 20
    """Steps between checkpoints; there is always one at the end. 0: only at the end."""
    keep: Count = 2
    """Number of newest checkpoints to keep."""
    milestone_every: Natural = 0
    """Checkpoints of steps divisible by this are never deleted. 0: no such checkpoints."""
    keep_best: bool = True
    """Keep the checkpoint of the evaluated step with the highest held-out accuracy, and make one at that step if none is
    due. The evaluation before the first step counts too; the start policy needs no checkpoint."""
    storage: Annotated[str | None, HOME] = None
    """Where checkpoints and the observation log are written: a folder that all nodes share, or a URI such as
    `s3://bucket/run`. null: the run's folder."""


class RecoverySettings(Settings):
    """How often failures are retried before the run stops. These settings do not change results."""

    restarts: Count = 3
    """Times in a row that the same actor, or the learner, is replaced without a success in between before the run stops.
    For the learner, a success is a step that was not reached before."""
    prompt_failures: Count = 3
    """Failures in a row after which a prompt is set aside: its engine died, or the verifier failed on one of its
    responses."""
    on_nonfinite: Literal["skip", "stop"] = "stop"
    """What to do with a NaN or infinite loss, gradient or reward: skip that minibatch or group, or stop the run."""


class EngineTimeouts(Settings):
    """Deadlines in seconds. An error names the actors that have not answered by then."""

    generate: Seconds = 1800.0
    """Deadline in seconds for generating the responses to one batch."""
    score: Seconds = 300.0
    """Deadline in seconds for scoring one batch."""
    probe: Seconds = 60.0
    """Deadline in seconds for an engine to generate a single token, when it is checked after a silence."""
    idle: Seconds = 600.0
    """Seconds without use after which an engine is checked before it is used again."""


class TimeoutSettings(EngineTimeouts):
    train: Seconds = 1800.0
    """Deadline in seconds for the optimizer steps of one batch."""
    publish: Seconds = 300.0
    """Deadline in seconds for transferring the weights to the engines."""
    beliefs: Seconds = 120.0
    """Deadline in seconds for a belief shard to observe a batch and propose the next."""
    checkpoint: Seconds = 1800.0
    """Deadline in seconds for writing or reading a checkpoint."""


class ReportSettings(Settings):
    compared_with: Annotated[str | None, HOME] = None
    """Folder of other runs, with which the summary says what was saved at equal accuracy: the report of a comparison
    (`runs/comparison/report`), from which uniform sampling and the strongest Dynamic Sampling are taken, or another run. They
    should have the same start policy and held-out prompts. null: the savings are estimated from probes."""
    price_per_gpu_hour: Annotated[float, Field(gt=0.0)] | None = None
    """Price of a GPU for an hour, in any currency, with which the summary says what was saved. null: it says no price."""
