"""Settings of the loop and of what it does beside training: `loop.*`, `eval.*`, `probe.*`, `checkpoint.*`,
`recovery.*` and `timeouts.*`."""

from typing import Annotated, Literal

from pydantic import Field

from dps_ray.setting_types import HOME, Count, Natural, Seconds, Settings


class LoopSettings(Settings):
    steps: Count = 60
    """Training steps."""
    batch_size: Count = 64
    """Prompts a step (B)."""
    filter_groups: bool = False
    """Train on partial groups only, and refill the batch until B of them are found: with
    `method=uniform` this is Dynamic Sampling (DAPO)."""
    max_gen_batches: Count = 10
    """With filter_groups: rollout batches a step at the most; then it trains on what it has."""
    max_staleness: Literal[0, 1] = 0
    """0: each batch is sampled with the newest weights, and engines and learner take turns. 1: the next
    batch is sampled while the learner trains, with weights one step older; see `objective.importance_cap`."""


class EvalSettings(Settings):
    every: Natural = 0
    """Evaluate every so many steps; 0 only before and after."""
    samples: Count = 4
    """Responses to each test prompt (the N of mean@N)."""
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    """Of sampling in the evaluation."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Likewise."""
    max_prompts: Count | None = None
    """Use only the first so many test prompts; null uses all."""


class ProbeSettings(Settings):
    """A measurement, not training: a uniform sample of the pool is rolled out to see what uniform
    selection would give now. It is charged to the run's rollouts, and beliefs do not see it."""

    every: Natural = 10
    """Probe every so many steps; 0 never."""
    prompts: Count = 64
    """Prompts of a probe."""


class CheckpointSettings(Settings):
    every: Natural = 20
    """Checkpoint every so many steps, and always at the end; 0 only at the end."""
    keep: Count = 2
    """Newest checkpoints to keep."""
    milestone_every: Natural = 0
    """Checkpoints of steps divisible by this are kept for ever; 0 keeps none so."""
    keep_best: bool = True
    """Keep the checkpoint of the evaluated step with the highest held-out accuracy, and make one for it if none
    is due; the start policy counts as evaluated before the first step, and needs none."""
    storage: Annotated[str | None, HOME] = None
    """Where checkpoints and the observation log go: a folder that all nodes share, or a URI such as
    `s3://bucket/run`; null puts them into the run's folder."""


class RecoverySettings(Settings):
    """What is tried again, how often, before the run gives up. Nothing here changes a result."""

    restarts: Count = 3
    """Replacements in a row, without a success in between, of the same actor or of the learner;
    after that the run stops. Of the learner only a step beyond all before is a success."""
    prompt_failures: Count = 3
    """A prompt is set aside when the engine that had it died, or the verifier of one of its responses
    failed, so often in a row."""
    on_nonfinite: Literal["skip", "stop"] = "stop"
    """A NaN or infinite loss, gradient or reward: leave out that minibatch or group, or stop the run."""


class EngineTimeouts(Settings):
    """Seconds after which actors that have not answered are named in an error."""

    generate: Seconds = 1800.0
    """For the responses to one batch."""
    score: Seconds = 300.0
    """For the rewards of one batch."""
    probe: Seconds = 60.0
    """For an engine that was silent for too long to generate a single token."""
    idle: Seconds = 600.0
    """An engine that was not used for so long is probed before it is used."""


class TimeoutSettings(EngineTimeouts):
    train: Seconds = 1800.0
    """For the optimizer steps of one batch."""
    publish: Seconds = 300.0
    """For passing the weights to the engines."""
    beliefs: Seconds = 120.0
    """For a belief shard to observe and propose."""
    checkpoint: Seconds = 1800.0
    """For writing or reading a checkpoint."""
