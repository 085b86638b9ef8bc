"""Every setting of `python -m pipelines.evaluate`. Those that a run has too have a run's names.

model=A is short for model.path=A, and data=B for data.test=B
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dps_ray.config import (
    HOME,
    TEMPLATE,
    Config,
    Count,
    DataSettings,
    EngineResources,
    EngineSettings,
    EngineTimeouts,
    EnvironmentSettings,
    LearnerPool,
    LearnerSettings,
    ModelSettings,
    RecoverySettings,
    ResourceSettings,
    RolloutSettings,
    Settings,
    TimeoutSettings,
    VerifierSettings,
)
from dps_ray.environments.settings import one_source_of_rewards
from dps_ray.paths import expanded_of_named
from dps_ray.plain_settings import EachText

_NAMED = EachText(expanded_of_named)


class EvaluatedModels(Settings):
    path: Annotated[str | list[str], _NAMED]
    """Hugging Face folder or hub name; or the folder of a run, for the model of its newest checkpoint; or
    `builtin:start-policy`. Several, as `[A,B]`, are evaluated one after the other. `NAME=A` names a row of
    the table."""
    checkpoint: Literal["newest", "best"] = "newest"
    """Of a run's folder: the newest, or the one with the highest accuracy on the run's held-out prompts."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision. On a CPU float32 is the faster one."""
    chat_template: Annotated[str | None, TEMPLATE] = None
    """Jinja chat template, or a file with one, for a tokenizer that has none. Nothing is added to the text that
    it writes: a template for a model whose texts begin with a bos token begins with `{{ bos_token }}`."""


class EvaluatedData(Settings):
    test: Annotated[str | list[str], _NAMED]
    """Test sets: a Parquet file or a folder of them in verl's schema, or `builtin:arithmetic`,
    `builtin:countdown`, `builtin:calculator`, `builtin:guess_the_number`; several as `[A,B]`. `NAME=A` names a column of
    the table, which else is named after the file, or its folder if the file is called test or the like. A set that holds
    several data sources has a column for each."""
    id_column: str | None = None
    """Column with unique int64 prompt ids; null derives them from the rows' content."""
    max_prompt_length: Count = 1024
    """Longest prompt, in tokens."""
    overlong_prompts: Literal["skip", "error"] = "error"
    """What to do with longer ones: stop, or leave them out of the set and count them."""
    max_pixels: Annotated[int, Field(ge=28 * 28)] | None = None
    """Images of more pixels are scaled down to so many; null: as the model's own preprocessor_config.json says."""
    reward: Annotated[str | None, HOME] = None
    """Reward function as `module:function` or `file.py:function` with verl's signature
    `compute_score(data_source, solution_str, ground_truth, extra_info)`; null uses the task's own."""


class EvaluationConfig(Settings):
    model: EvaluatedModels
    data: EvaluatedData
    samples: Count = 16
    """Responses to each prompt: the n of mean@n, and of pass@m with m up to n."""
    temperature: Annotated[float, Field(ge=0.0)] = 0.6
    """Of sampling; 0 takes the likeliest token, with samples=1."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Sample from the likeliest tokens that hold this much probability."""
    max_response_length: Count = 1024
    """Tokens of a response at the most; a longer one is truncated and counted."""
    max_prompts: Count | None = None
    """Use only the first so many prompts of each test set; null uses all."""
    seed: int = 0
    """Decides sampling."""
    folder: Annotated[Path, HOME] = Path("evaluations")
    """Where results go. What is in it already, of the same model, prompts and sampling, is not done again."""
    rollout: EngineSettings = EngineSettings()
    verifier: VerifierSettings = VerifierSettings()
    environment: EnvironmentSettings = EnvironmentSettings()
    recovery: RecoverySettings = RecoverySettings()
    resources: EngineResources = EngineResources()
    timeouts: EngineTimeouts = EngineTimeouts()

    @model_validator(mode="after")
    def _greedy_responses_are_all_the_same(self) -> "EvaluationConfig":
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(
                f"samples={self.samples} with temperature=0 would give {self.samples} times the same "
                "response: set samples=1, or a temperature"
            )
        return self

    @model_validator(mode="after")
    def _an_environment_gives_the_rewards(self) -> "EvaluationConfig":
        one_source_of_rewards(self.environment, self.data.reward)
        return self

    @model_validator(mode="after")
    def _an_engine_has_whole_gpus(self) -> "EvaluationConfig":
        gpus = self.resources.rollout.gpus_per_engine
        if not gpus.is_integer():
            raise ValueError(
                f"resources.rollout.gpus_per_engine={gpus:g}: no learner is there to share a card with; write "
                "1 or more, or 0 for the CPU"
            )
        return self

    def of_a_run(self, model: str) -> Config:
        """What engines and verifiers are told, which know a run's configuration only.

        model: Hugging Face folder or hub name.
        """
        longest = self.data.max_prompt_length + self.max_response_length
        return Config(
            seed=self.seed,
            folder=self.folder,
            data=DataSettings(**self.data.model_dump(exclude={"test"})),
            model=ModelSettings(
                path=model, dtype=self.model.dtype, chat_template=self.model.chat_template
            ),
            rollout=RolloutSettings(
                **self.rollout.model_dump(), max_response_length=self.max_response_length
            ),
            verifier=self.verifier,
            environment=self.environment,
            recovery=self.recovery,
            timeouts=TimeoutSettings(**self.timeouts.model_dump()),
            resources=ResourceSettings(
                **self.resources.model_dump(),
                # There is none; but a run has both on the same kind of device.
                learner=LearnerPool(
                    gpus_per_rank=float(self.resources.rollout.gpus_per_engine > 0)
                ),
            ),
            learner=LearnerSettings(max_tokens_per_micro_batch=longest),
        )
