"""All settings of a run, put together."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    SerializeAsAny,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from dps_ray.beliefs.settings import StateSettings
from dps_ray.config.explain import explained
from dps_ray.config.learner import CriticSettings, LearnerSettings, ModelSettings
from dps_ray.config.reading import compose
from dps_ray.config.resources import ResourceSettings
from dps_ray.config.rollout import RolloutSettings
from dps_ray.config.run import (
    CheckpointSettings,
    EvalSettings,
    LoopSettings,
    ProbeSettings,
    RecoverySettings,
    ReportSettings,
    TimeoutSettings,
)
from dps_ray.environments.settings import EnvironmentSettings, one_source_of_rewards
from dps_ray.objective.settings import ObjectiveSettings
from dps_ray.paths import expanded
from dps_ray.plugins import absolute
from dps_ray.prompts.settings import DataSettings
from dps_ray.rewards.settings import VerifierSettings
from dps_ray.selection import methods
from dps_ray.selection.settings import SelectorSettings
from dps_ray.setting_types import HOME, Settings


def _method(value: Any) -> Any:
    """Returns the name of a selector class, or the name that was given, with the path of a file made absolute."""
    if isinstance(value, type):
        value = methods.name_of(value)
    if isinstance(value, str):
        value = absolute(expanded(value)) if ":" in value else value
        methods.load(value)
    return value


def _selector(value: Any, info: ValidationInfo) -> SelectorSettings:
    """Returns the settings as those of the method that was validated before them."""
    method = info.data.get("method")
    if method is None:  # it is wrong, which is said already
        return SelectorSettings()
    kind: type[SelectorSettings] = methods.load(method).Settings
    if value is None:
        return kind()
    if isinstance(value, kind):
        return value
    if isinstance(value, SelectorSettings):
        raise ValueError(
            f"these are settings of another method than {method}: give {kind.__qualname__}(...), or leave method out"
        )
    return TypeAdapter(kind).validate_python(value)


class Config(Settings):
    method: Annotated[str, BeforeValidator(_method)] = "dps"
    """How prompts are chosen: predicted (`dps`, `dps_pooled`), uniformly without replacement (`uniform`), by one of the
    methods to compare with (`dps_ray/selection/methods/`: history_resampling, mopps, mapp, greso, variance_ema,
    recency, offline_filter), or by a class of your own, as `path/to/file.py:Class` or `package.module:Class`."""
    seed: int = 0
    """Seed of ties, sampling, shuffling and data."""
    folder: Annotated[Path, HOME] = Path("runs/default")
    """The run's folder, for metrics, checkpoints and the report."""
    resume: str = "auto"
    """auto: continue from the newest valid checkpoint in the folder, if there is one. never: start anew; the folder must hold
    no run. A manifest, such as `e0007.00000040`: continue from it."""
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    selector: Annotated[SerializeAsAny[SelectorSettings], PlainValidator(_selector)] = Field(
        default=None, validate_default=True
    )
    states: StateSettings = StateSettings()
    loop: LoopSettings = LoopSettings()
    rollout: RolloutSettings = RolloutSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    learner: LearnerSettings = LearnerSettings()
    eval: EvalSettings = EvalSettings()
    probe: ProbeSettings = ProbeSettings()
    verifier: VerifierSettings = VerifierSettings()
    environment: EnvironmentSettings = EnvironmentSettings()
    recovery: RecoverySettings = RecoverySettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    resources: ResourceSettings = ResourceSettings()
    timeouts: TimeoutSettings = TimeoutSettings()
    report: ReportSettings = ReportSettings()
    loggers: list[Literal["tensorboard", "ray", "wandb", "mlflow"]] = Field(
        default=["tensorboard", "ray"]
    )
    """Where metrics go besides metrics.jsonl: TensorBoard event files, gauges in Ray's dashboard, Weights & Biases, MLflow.
    The last two must be installed first."""

    def __init__(self, **settings: Any) -> None:
        """
        Raises:
            ConfigError: an unknown setting, a missing one, a wrong type, a value out of range, or settings at odds with
                each other. All at once.
        """
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise explained(type(self), settings, error) from None

    @classmethod
    def load(cls, name: str | Path | None = None, /, **given: Any) -> "Config":
        """Returns a configuration: the defaults, then a YAML file, then the settings that are given.

            Config.load("countdown", model={"path": "models/mine"}, loop={"steps": 200}, folder="runs/mine")

        Args:
            name: a YAML file, or the name of a configuration in `dps_ray/configs`; None starts from the defaults.
            given: single settings, and groups as dicts, which replace what they name. A group may be an object of its
                class, which replaces all of the group. `method` may be a selector class, `selector` its `Settings`,
                and `data["reward"]` a function.

        Raises:
            ConfigError: there is no such file, or a setting is wrong.
        """
        return compose(cls, name, given)

    @model_validator(mode="before")
    @classmethod
    def _settings_of_a_selector_say_the_method(cls, tree: Any) -> Any:
        if isinstance(tree, dict) and isinstance(tree.get("selector"), SelectorSettings):
            return {"method": methods.name_by_settings(type(tree["selector"])), **tree}
        return tree

    @model_validator(mode="after")
    def _a_sequence_fits_a_micro_batch(self) -> "Config":
        longest = self.data.max_prompt_length + self.rollout.max_response_length
        ranks = self.learner.sequence_parallel
        least = -(-longest // ranks)
        if self.learner.max_tokens_per_micro_batch < least:
            shared = "" if ranks == 1 else f", shared by learner.sequence_parallel={ranks} ranks"
            raise ValueError(
                f"learner.max_tokens_per_micro_batch={self.learner.max_tokens_per_micro_batch} cannot hold one "
                f"sequence of data.max_prompt_length + rollout.max_response_length = {longest} tokens{shared}; "
                f"set it to {least} or more"
            )
        return self

    @model_validator(mode="after")
    def _ranks_share_sequences_in_groups_of_one_size(self) -> "Config":
        ranks, sharing = self.resources.learner.ranks, self.learner.sequence_parallel
        if ranks % sharing:
            raise ValueError(
                f"learner.sequence_parallel={sharing} and resources.learner.ranks={ranks}: ranks share sequences in "
                f"groups of {sharing}; set resources.learner.ranks to a multiple of {sharing}, or "
                "learner.sequence_parallel to a divisor of the ranks"
            )
        return self

    @model_validator(mode="after")
    def _an_environment_gives_the_rewards(self) -> "Config":
        one_source_of_rewards(self.environment, self.data.reward)
        if self.environment.path is not None and self.rollout.rounds is not None:
            raise ValueError(
                f"environment.path={self.environment.path} and rollout.rounds={self.rollout.rounds}: episodes over "
                "several turns are not generated in rounds; set rollout.rounds=null"
            )
        return self

    @model_validator(mode="after")
    def _the_method_works_with_this_rule_for_states(self) -> "Config":
        self.selector.check(self.states)
        return self

    @model_validator(mode="after")
    def _the_belief_is_about_right_responses(self) -> "Config":
        if self.objective.baseline == "belief" and self.states.rule != "right":
            raise ValueError(
                f"objective.baseline=belief and states.rule={self.states.rule}: predicted solve rates are of right "
                "responses; set states.rule=right or objective.baseline=group"
            )
        return self

    @model_validator(mode="after")
    def _a_critic_is_for_ppo(self) -> "Config":
        critic, objective = self.learner.critic, self.objective
        unused = [
            f"learner.critic.{name}={value}"
            for name, value in critic
            if value != getattr(CriticSettings(), name)
        ]
        if unused and not objective.has_critic:
            raise ValueError(
                f"{', '.join(unused)} and objective.name={objective.name}: only ppo has a critic; set "
                "objective.name=ppo, or leave the settings of the critic out"
            )
        return self

    @model_validator(mode="after")
    def _the_advantages_of_ppo_are_of_its_batch(self) -> "Config":
        if self.objective.has_critic and self.objective.normalize_by == "batch_size":
            raise ValueError(
                "objective.name=ppo and objective.normalize_by=batch_size: with ppo all groups of a batch train; set "
                "objective.normalize_by=useful_groups, or another objective"
            )
        return self

    @model_validator(mode="after")
    def _the_overlong_buffer_fits_a_response(self) -> "Config":
        buffer, limit = self.objective.overlong_buffer, self.rollout.max_response_length
        if buffer > limit:
            raise ValueError(
                f"objective.overlong_buffer={buffer} and rollout.max_response_length={limit}: the buffer is the last part "
                f"of a response; set objective.overlong_buffer to less than {limit}"
            )
        return self

    @model_validator(mode="after")
    def _replayed_groups_are_corrected(self) -> "Config":
        if self.loop.replay is not None and self.objective.importance_cap is None:
            raise ValueError(
                f"loop.replay={self.loop.replay} and objective.importance_cap=null: groups of older policies need the "
                "importance weight; set objective.importance_cap=2 or loop.replay=null"
            )
        return self

    @model_validator(mode="after")
    def _servers_are_placed_by_whoever_starts_them(self) -> "Config":
        if not self.rollout.servers:
            return self
        asked = self.resources.rollout.model_dump(exclude_defaults=True)
        if asked:
            key, value = next(iter(asked.items()))
            raise ValueError(
                f"resources.rollout.{key}={value} and rollout.servers={self.rollout.servers}: servers are started "
                f"apart from the run, which places no engines; leave resources.rollout or rollout.servers out"
            )
        if self.resources.colocate:
            raise ValueError(
                f"resources.colocate=true and rollout.servers={self.rollout.servers}: a server does not leave its card "
                "to the learner; set resources.colocate=false"
            )
        return self

    @model_validator(mode="after")
    def _both_pools_on_the_same_kind_of_device(self) -> "Config":
        gpus = self.resources.rollout.gpus_per_engine, self.resources.learner.gpus_per_rank
        if (gpus[0] > 0) != (gpus[1] > 0) and not self.rollout.servers:
            raise ValueError(
                f"resources.rollout.gpus_per_engine={gpus[0]:g} and resources.learner.gpus_per_rank={gpus[1]:g}: "
                "rollout and learner must both run on GPUs or both on the CPU"
            )
        return self

    @model_validator(mode="after")
    def _gpus_are_used_in_turns_where_that_is_possible(self) -> "Config":
        rollout, learner = self.resources.rollout, self.resources.learner
        if not self.resources.colocate:
            return self
        if rollout.gpus_per_engine >= 1 or learner.gpus_per_rank >= 1:
            raise ValueError(
                "resources.colocate=true is for engines and ranks on the same GPUs: write "
                "resources.rollout.gpus_per_engine=0.5 and resources.learner.gpus_per_rank=0.5"
            )
        if self.loop.max_staleness > 0:
            raise ValueError(
                "resources.colocate=true and loop.max_staleness=1: on shared GPUs a run cannot generate and train at the "
                "same time; set one of them back"
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
        if self.rollout.servers:
            raise ValueError(
                f"resources.learner.gpus_per_rank={rank:g} and rollout.servers={self.rollout.servers}: no engine of the "
                "run shares a GPU with a rank; write 1, or 0 to train on the CPU"
            )
        fit = 0 < engine < 1 and 0 < rank < 1 and engine + rank < 1 + 1e-6
        if not fit or rollout.engines != learner.ranks:
            raise ValueError(
                f"resources.rollout.gpus_per_engine={engine:g} and resources.learner.gpus_per_rank={rank:g}: "
                "fractions are for as many engines as ranks, one of each on every GPU, such as 0.5 and 0.4 "
                "with engines=1 and ranks=1; write whole numbers otherwise"
            )
        if 0 < engine + rank <= 0.5:
            raise ValueError(
                f"resources.rollout.gpus_per_engine={engine:g} and resources.learner.gpus_per_rank={rank:g}: "
                "together they must take more than half of a GPU, or Ray may place two pairs on the same one"
            )
        return self
