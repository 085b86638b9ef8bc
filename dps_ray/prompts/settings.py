"""Settings of the prompts: `data.*`."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from dps_ray.plugins import spec_of
from dps_ray.setting_types import HOME, Count, Settings


def _by_name(reward: Any) -> Any:
    """Returns the name of a function, by which processes of a sandbox load it."""
    return spec_of(reward) if callable(reward) else reward


class DataSettings(Settings):
    train: Annotated[str | list[str], HOME] = "builtin:arithmetic"
    """Parquet or JSON lines files with the training prompts in verl's schema: a path, a pattern such as `data/*.parquet`,
    a folder, or a list of these, on this machine or at `s3://`, `gs://`, `hf://datasets/`; a folder of
    `datasets.save_to_disk`; or `builtin:arithmetic`, `builtin:countdown`, `builtin:calculator`,
    `builtin:guess_the_number`."""
    weights: Annotated[list[Annotated[float, Field(gt=0.0)]], Field(min_length=1)] | None = None
    """Share of each entry of the list `data.train` in every batch, in proportion to these numbers. Each entry then has
    beliefs of its own. null: all prompts are one pool."""
    test: Annotated[str | list[str] | None, HOME] = None
    """Held-out prompts for evaluations: files, a folder, or a built-in task, as for `data.train`. null: no evaluations."""
    id_column: str | None = None
    """Column with unique int64 prompt ids. null: ids are derived from the content of the rows."""
    max_prompt_length: Count = 1024
    """Maximum length of a prompt in tokens, image tokens included."""
    measure: Literal["drawn", "upfront"] = "drawn"
    """When training prompts are tokenized to see whether they are too long. drawn: each when it is first selected; one
    that cannot be used is set aside for good, and another takes its place. upfront: all at the first start, over all
    cores."""
    overlong_prompts: Literal["skip", "error"] = "skip"
    """What to do with prompts longer than `data.max_prompt_length`: leave them out and count them, or stop."""
    max_pixels: Annotated[int, Field(ge=28 * 28)] | None = None
    """Images with more pixels are scaled down to this many. Qwen2.5-VL has one token for 784 pixels. null: the value in the
    model's preprocessor_config.json (12,845,056 pixels, or 16,384 tokens, for the published models)."""
    train_max_samples: Count | None = None
    """Number of training prompts to use, drawn by `seed`. null: all."""
    reward: Annotated[str | None, HOME, BeforeValidator(_by_name)] = None
    """Reward function as `module:function` or `file.py:function` with verl's signature
    `compute_score(data_source, solution_str, ground_truth, extra_info)`. null: the built-in one of the task."""

    @model_validator(mode="after")
    def _a_weight_for_each_source(self) -> Self:
        sources = len(self.train) if isinstance(self.train, list) else 1
        if self.weights is not None and len(self.weights) != sources:
            raise ValueError(
                f"data.weights has {len(self.weights)} numbers, and data.train names {sources}; give one for each, such "
                "as data.train=[a.parquet,b.parquet] data.weights=[0.7,0.3]"
            )
        return self
