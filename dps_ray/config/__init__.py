"""Every setting of a run, its type, default and bounds, documented where it is declared.

`pipelines/grpo_dps.py` reads a YAML file and `a.b=c` overrides into a `Config`
(`dps_ray.config.settings.load`). Nothing here starts, loads or imports anything heavy.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from dps_ray.paths import expanded

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0.0)]


def each_text(change: Callable[[str], str]) -> BeforeValidator:
    """Apply this to a setting that is a text or a path, or to each of a list of them."""

    def validate(value: Any) -> Any:
        if isinstance(value, list):
            return [validate(item) for item in value]
        return change(str(value)) if isinstance(value, str | Path) else value

    return BeforeValidator(validate)


def _template_or_path(text: str) -> str:
    return text if "{{" in text or "{%" in text else expanded(text)


HOME = each_text(expanded)
"""Of settings that are paths: a leading `~` is the home folder."""
TEMPLATE = each_text(_template_or_path)
"""Of a setting that is a template or a path."""


class Settings(BaseModel):
    """Base of all groups: unknown keys are errors, docstrings become the help text."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True)


class DataSettings(Settings):
    train: Annotated[str | list[str], HOME] = "builtin:arithmetic"
    """Parquet file(s) or folder in verl's schema, or `builtin:arithmetic`, `builtin:countdown`."""
    test: Annotated[str | list[str] | None, HOME] = None
    """Held-out prompts for the evaluation, likewise; null evaluates nothing."""
    id_column: str | None = None
    """Column with unique int64 prompt ids; null derives them from the rows' content."""
    max_prompt_length: Count = 1024
    """Longest prompt, in tokens, those of its images included."""
    overlong_prompts: Literal["skip", "error"] = "skip"
    """What to do with longer ones: leave them out of the pool and count them, or stop."""
    max_pixels: Annotated[int, Field(ge=28 * 28)] | None = None
    """Images of more pixels are scaled down to so many; 784 pixels are a token of Qwen2.5-VL. null: as the
    model's own preprocessor_config.json says (12,845,056, or 16,384 tokens, for the published ones)."""
    train_max_samples: Count | None = None
    """Train on only so many of the prompts, drawn by `seed`; null on all of them."""
    reward: Annotated[str | None, HOME] = None
    """Reward function as `module:function` or `file.py:function` with verl's signature
    `compute_score(data_source, solution_str, ground_truth, extra_info)`; null uses the task's own."""


class ModelSettings(Settings):
    path: Annotated[str, HOME] = "builtin:start-policy"
    """Hugging Face folder of the policy, or `builtin:start-policy` (made once, then cached)."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of rollout and training. On a CPU float32 is the faster one."""
    chat_template: Annotated[str | None, TEMPLATE] = None
    """Jinja chat template, or a file with one, for a tokenizer that has none. Nothing is added to the text that
    it writes: a template for a model whose texts begin with a bos token begins with `{{ bos_token }}`."""


class SelectorSettings(Settings):
    """Of the methods that are named; others take no notice."""

    cluster_column: str | None = None
    """dps_pooled: column by whose values prompts are of a kind, such as `ability`, `extra_info.level` for a
    key of extra_info, or `cluster` as made by `pipelines.prepare cluster`: strings or integers. null:
    prompts of one data_source are of a kind."""
    cluster_decay: Share = 0.9
    """dps_pooled: weight of the past in the counts of a cluster; its fourth root in a step that tried none
    of its waiting prompts."""
    cluster_strength: Annotated[float, Field(gt=0.0)] = 10.0
    """dps_pooled: how many moves of its own its cluster's transitions are worth to a prompt (kappa)."""
    temperature: Annotated[float, Field(gt=0.0)] | None = None
    """dps, dps_pooled, variance_ema: prompts are drawn without replacement with weight
    score^(1 / temperature), which is P(partial) for DPS: small is greedy, large uniform. null: the best are
    taken; dps_pooled: 0.25."""
    rest: Natural | None = None
    """Any method: steps for which a prompt is left alone once it was tried, as far as there are others.
    null: 0; dps_pooled: 20, or as many as leave half of the pool."""
    max_uses: Count | None = None
    """Any method: uses of a prompt in a round; a round ends when all of the pool had as many (dps_pooled: or
    had fewer, and none in the last 50 steps). null: no limit."""
    fresh_share: Share = 0.0
    """Any method: at least this part of a batch are prompts never tried, as far as there are any."""
    decay: Share = 0.7
    """DPS: weight of the past in the transition counts (lambda); 1 never forgets, 0 keeps one step."""
    prior: Literal["uniform", "progress", "stability", "local"] = "uniform"
    """DPS: prior transition counts alpha0, by their published names."""
    entropy_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """DPS: adds this times the belief's entropy to P(partial) when ranking ("topk+entropy")."""
    observation: Literal["states", "counts", "rewards"] | None = None
    """DPS, dps_pooled: what is learned from of a group: its solve state, as published; how many of its
    responses were right (the belief is then over solve rates, whose moves all prompts teach together); or, with
    method=dps and `states.rule=variation`, mean and variance of its rewards. `prior`, `entropy_weight` and
    `candidates` are for states alone. null: states; dps_pooled: counts."""
    beta_decay: Share = 0.5
    """MoPPS and MaPP: weight of the past in the Beta's counts; 1 never forgets."""
    variance_decay: Share = 0.7
    """variance_ema: weight of the past in the running mean of the reward's variance."""
    candidates: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """DPS: rank only this share of the pool, a random part, new each step (published
    "candidate_ratio"); null ranks all."""

    def observation_of(self, method: str) -> Literal["states", "counts", "rewards"]:
        """What this method learns from."""
        return self.observation or ("counts" if method == "dps_pooled" else "states")


class StateSettings(Settings):
    """What makes a prompt unsolved, partial or solved. The last three are for rewards without right and wrong."""

    rule: Literal["right", "thresholds", "variation"] = "right"
    """`right`: solved when all responses have accuracy 1, unsolved when none has. Else by score:
    `thresholds`: solved when all are `high` or more, unsolved when all are `low` or less. `variation`:
    partial when their standard deviation is above `least_std`. Groups that are not partial by that are
    solved or unsolved by their mean, whether it lies nearer to `high` or to `low`."""
    low: float = 0.0
    """Score of a response that is no good at all: 0.1, say, where the right format alone earns that."""
    high: float = 1.0
    """Score of a response that leaves nothing to be learned."""
    least_std: Annotated[float, Field(gt=0.0)] = 0.05
    """Standard deviation (the sample's, as of advantages) up to which rewards are taken to be the same."""


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


class ObjectiveSettings(Settings):
    clip_low: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    """The ratio of the policy to that before the batch is clipped below at 1 - clip_low,"""
    clip_high: Annotated[float, Field(ge=0.0)] = 0.28
    """and above at 1 + clip_high (DAPO's clip-higher)."""
    dual_clip: Annotated[float, Field(gt=1.0)] = 10.0
    """Bound on the loss of a negative advantage, in multiples of it."""
    importance_cap: Annotated[float, Field(gt=0.0)] | None = 2.0
    """Each token's loss is weighted by how much likelier the learner held it, before the batch's first
    update, than the engine that sampled it did, but by no more than this: it corrects for older weights
    (`loop.max_staleness`) and for the engine's arithmetic. null weighs nothing, and clips the ratio to the
    engine's own probabilities: a forward pass less for all minibatches but the first."""
    norm_by_std: bool = True
    """Divide advantages by the group's standard deviation (GRPO); false is Dr. GRPO's choice."""
    aggregation: Literal["token-mean", "sequence-mean"] = "token-mean"
    """Every token counts the same, or every response does."""
    normalize_by: Literal["useful_groups", "batch_size"] = "useful_groups"
    """The loss is a mean over the groups that carry gradient (DAPO with filter_groups), or over
    `loop.batch_size` groups, the others of which add nothing (GRPO without a filter): then a batch
    with fewer useful groups makes a smaller step, as far as Adam lets it."""
    kl_coef: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the KL (k3 estimate) to the start policy; 0 loads no reference."""
    entropy_coef: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of an entropy bonus."""


class LoraSettings(Settings):
    """Low-rank adapters: a linear layer computes with W + (alpha / rank) B A, and only A and B are trained."""

    rank: Count = 16
    """Rows of A and columns of B: the larger, the more an adapter can express, and the more memory it takes."""
    alpha: Annotated[float, Field(gt=0.0)] = 32.0
    """Adapters are multiplied by alpha / rank."""
    target_modules: Annotated[list[str] | Literal["all-linear"], Field(min_length=1)] = "all-linear"
    """Linear layers that get an adapter, by the ends of their names, such as [q_proj, v_proj]. all-linear: all but the
    output head, which never has one."""

    def __str__(self) -> str:
        """As it is written in an override."""
        inner = self.model_dump(mode="json").items()
        return "{" + ", ".join(f"{key}: {value}".replace("'", "") for key, value in inner) + "}"


class LearnerSettings(Settings):
    lr: Annotated[float, Field(gt=0.0)] = 1e-6
    """Learning rate of AdamW."""
    warmup_steps: Natural = 0
    """Optimizer steps over which the learning rate rises linearly from 0."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Of AdamW."""
    betas: tuple[
        Annotated[float, Field(ge=0.0, lt=1.0)], Annotated[float, Field(ge=0.0, lt=1.0)]
    ] = (0.9, 0.95)
    """Of AdamW."""
    clip_norm: Annotated[float, Field(gt=0.0)] = 1.0
    """Gradient clipping, by global norm."""
    minibatches: Count = 2
    """Optimizer steps made of each batch."""
    epochs: Count = 1
    """Passes over each batch."""
    max_tokens_per_micro_batch: Count = 16_384
    """Tokens of a forward pass at the most, padding included: bounds memory, changes no result."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2
    """DeepSpeed ZeRO stage, what the ranks share: 1 the optimizer's state, 2 gradients too, 3 weights too."""
    gradient_checkpointing: bool | None = None
    """Recompute activations in the backward pass: 4 GB in place of 52 for 15,360 tokens at 1.5B, for a third more
    time. null: on GPUs."""
    lora: LoraSettings | None = None
    """Train low-rank adapters (LoRA) in place of all weights: `learner.lora={}` with the defaults, or
    `learner.lora={rank: 8, target_modules: [q_proj, v_proj]}`. Takes about ten times the learning rate of full
    training. null: train all weights."""
    freeze_vision_tower: bool = False
    """Of a vision-language model, train the language model alone."""
    threads: Count = 1
    """On a CPU: threads a rank computes with."""


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


class VerifierSettings(Settings):
    """Limits on scoring one response, in a process that can be killed. What the first call imports is not counted."""

    seconds: Seconds = 10.0
    """Wall-clock time."""
    cpu_seconds: Seconds = 10.0
    """Processor time, rounded up to whole seconds."""
    memory_gib: Annotated[float, Field(gt=0.0)] = 2.0
    """Memory beyond what the process has before it scores."""


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


class RolloutPool(Settings):
    engines: Count = 1
    """vLLM engines, an actor each."""
    gpus_per_engine: Annotated[float, Field(ge=0.0)] = 0.0
    """GPUs of an engine (tensor parallel size); 0 runs it on the CPU. A fraction, such as 0.5, shares each card
    with a learner rank."""
    cpus: Annotated[float, Field(ge=0.0)] = 1.0
    """CPUs reserved for an engine."""
    custom: dict[str, float] = {}
    """Custom Ray resources that an engine needs, to place it: {"cpu_node": 0.01}."""


class LearnerPool(Settings):
    ranks: Count = 1
    """DeepSpeed ranks, an actor each."""
    gpus_per_rank: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """1 trains on GPUs, 0 on the CPU. A fraction, such as 0.4, shares each card with an engine."""
    cpus: Annotated[float, Field(ge=0.0)] = 1.0
    """CPUs reserved for a rank."""
    custom: dict[str, float] = {}
    """Custom Ray resources that a rank needs, to place it: {"cpu_node": 0.01}."""


class BeliefPool(Settings):
    shards: Count = 1
    """Actors that hold the beliefs; the result does not depend on their number."""
    custom: dict[str, float] = {}
    """Custom Ray resources that a shard needs, to place it: {"cpu_node": 0.01}."""


class VerifierPool(Settings):
    workers: Count = 1
    """Actors that score responses."""
    custom: dict[str, float] = {}
    """Custom Ray resources that a verifier needs, to place it: {"cpu_node": 0.01}."""


class EngineResources(Settings):
    """What generating and scoring take."""

    rollout: RolloutPool = RolloutPool()
    verifiers: VerifierPool = VerifierPool()
    wait: Seconds = 300.0
    """Seconds in which the cluster must have room for everything, and an actor must start."""


class ResourceSettings(EngineResources):
    learner: LearnerPool = LearnerPool()
    beliefs: BeliefPool = BeliefPool()
    colocate: bool = False
    """Engines and ranks that share cards in pairs have them by turns: engines sleep while the learner trains, and its
    optimizer and gradients are in the host's memory while they generate. The fractions then only say which are together."""


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


class Config(Settings):
    method: Literal[
        "dps",
        "dps_pooled",
        "uniform",
        "history_resampling",
        "mopps",
        "mapp",
        "greso",
        "variance_ema",
        "recency",
    ] = "dps"
    """How prompts are chosen: predicted (`dps`), uniformly without replacement (`uniform`), or by one of
    the methods to compare with (`dps_ray/selection/methods/`)."""
    seed: int = 0
    """Decides ties, sampling, shuffling and data."""
    folder: Annotated[Path, HOME] = Path("runs/default")
    """The run's folder: metrics, checkpoints, report."""
    resume: str = "auto"
    """`auto` continues from the newest valid checkpoint in the folder if there is one, `never` starts
    anew (the folder must hold no run), a manifest such as `e0007.00000040` continues from that one."""
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    selector: SelectorSettings = SelectorSettings()
    states: StateSettings = StateSettings()
    loop: LoopSettings = LoopSettings()
    rollout: RolloutSettings = RolloutSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    learner: LearnerSettings = LearnerSettings()
    eval: EvalSettings = EvalSettings()
    probe: ProbeSettings = ProbeSettings()
    verifier: VerifierSettings = VerifierSettings()
    recovery: RecoverySettings = RecoverySettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    resources: ResourceSettings = ResourceSettings()
    timeouts: TimeoutSettings = TimeoutSettings()
    loggers: list[Literal["tensorboard", "ray", "wandb", "mlflow"]] = ["tensorboard", "ray"]
    """Where metrics go besides metrics.jsonl: event files, gauges in Ray's dashboard, and services that
    are to be installed first (`pipelines/monitoring/loggers.py`)."""

    @model_validator(mode="after")
    def _a_sequence_fits_a_micro_batch(self) -> "Config":
        longest = self.data.max_prompt_length + self.rollout.max_response_length
        if self.learner.max_tokens_per_micro_batch < longest:
            raise ValueError(
                f"learner.max_tokens_per_micro_batch={self.learner.max_tokens_per_micro_batch} cannot hold one "
                f"sequence of data.max_prompt_length + rollout.max_response_length = {longest} tokens; "
                f"set it to {longest} or more"
            )
        return self

    @model_validator(mode="after")
    def _only_a_ranking_has_candidates(self) -> "Config":
        if self.selector.candidates is not None and self.method != "dps":
            raise ValueError(
                f"selector.candidates={self.selector.candidates} is for method=dps; "
                f"method={self.method} ranks nothing, so set it to null"
            )
        return self

    @model_validator(mode="after")
    def _only_a_probability_has_a_temperature(self) -> "Config":
        if self.selector.temperature is None:
            return self
        if self.method not in ("dps", "dps_pooled", "variance_ema"):
            raise ValueError(
                f"selector.temperature={self.selector.temperature} is for method=dps, dps_pooled and "
                f"variance_ema; method={self.method} draws in its own way, so set it to null"
            )
        if self.selector.candidates is not None:
            raise ValueError(
                f"selector.candidates={self.selector.candidates} and selector.temperature="
                f"{self.selector.temperature}: a draw is from the whole pool, so set one of them to null"
            )
        return self

    @model_validator(mode="after")
    def _low_is_below_high(self) -> "Config":
        low, high = self.states.low, self.states.high
        if not -math.inf < low < high < math.inf:
            raise ValueError(
                f"states.low={low} and states.high={high}: low must be the smaller, and both finite"
            )
        return self

    @model_validator(mode="after")
    def _other_observations_have_no_settings_of_states(self) -> "Config":
        observation = self.selector.observation
        if observation in (None, "states"):
            return self
        learners = ("dps", "dps_pooled") if observation == "counts" else ("dps",)
        if self.method not in learners:
            raise ValueError(
                f"selector.observation={observation} is for method={' and '.join(learners)}; "
                f"method={self.method} has its own way, so leave it at states"
            )
        if observation == "rewards" and self.states.rule != "variation":
            raise ValueError(
                f"selector.observation=rewards predicts what states.rule=variation calls partial, and "
                f"states.rule={self.states.rule}; set it to variation"
            )
        for name in ("prior", "entropy_weight", "candidates"):
            value, default = (
                getattr(self.selector, name),
                SelectorSettings.model_fields[name].default,
            )
            if value != default:
                raise ValueError(
                    f"selector.{name}={value} is for selector.observation=states; leave it at "
                    f"{'null' if default is None else default}"
                )
        return self

    @model_validator(mode="after")
    def _both_pools_on_the_same_kind_of_device(self) -> "Config":
        gpus = self.resources.rollout.gpus_per_engine, self.resources.learner.gpus_per_rank
        if (gpus[0] > 0) != (gpus[1] > 0):
            raise ValueError(
                f"resources.rollout.gpus_per_engine={gpus[0]:g} and resources.learner.gpus_per_rank={gpus[1]:g}: "
                "rollout and learner must both run on GPUs or both on the CPU"
            )
        return self

    @model_validator(mode="after")
    def _cards_are_had_by_turns_where_that_can_be(self) -> "Config":
        rollout, learner = self.resources.rollout, self.resources.learner
        if not self.resources.colocate:
            return self
        if rollout.gpus_per_engine >= 1 or learner.gpus_per_rank >= 1:
            raise ValueError(
                "resources.colocate=true is for engines and ranks on the same cards: write "
                "resources.rollout.gpus_per_engine=0.5 and resources.learner.gpus_per_rank=0.5"
            )
        if self.loop.max_staleness > 0:
            raise ValueError(
                "resources.colocate=true and loop.max_staleness=1: on a card that is had by turns a run cannot generate and "
                "train at the same time; set one of them back"
            )
        if self.learner.zero_stage != 2:
            raise ValueError(
                f"resources.colocate=true and learner.zero_stage={self.learner.zero_stage}: DeepSpeed moves the "
                "states of torch's AdamW at stage 2 alone; set learner.zero_stage=2"
            )
        return self

    @model_validator(mode="after")
    def _gpus_are_whole_or_shared_in_pairs(self) -> "Config":
        rollout, learner = self.resources.rollout, self.resources.learner
        engine, rank = rollout.gpus_per_engine, learner.gpus_per_rank
        if engine.is_integer() and rank.is_integer():
            return self
        fit = 0 < engine < 1 and 0 < rank < 1 and engine + rank < 1 + 1e-6
        if not fit or rollout.engines != learner.ranks:
            raise ValueError(
                f"resources.rollout.gpus_per_engine={engine:g} and resources.learner.gpus_per_rank={rank:g}: "
                "fractions are for as many engines as ranks, one of each on every card, such as 0.5 and 0.4 "
                "with engines=1 and ranks=1; write whole numbers otherwise"
            )
        if 0 < engine + rank <= 0.5:
            raise ValueError(
                f"resources.rollout.gpus_per_engine={engine:g} and resources.learner.gpus_per_rank={rank:g}: "
                "together they are to take more than half of a card, or Ray may put two pairs on the same one"
            )
        return self
