"""Settings of the prompts: `data.*`."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from dps_ray.plugins import spec_of
from dps_ray.setting_types import HOME, Count, Settings


def _by_name(reward: Any) -> Any:
    """Returns the name of a function, by which processes of a sandbox load it."""
    return spec_of(reward) if callable(reward) else reward


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
    reward: Annotated[str | None, HOME, BeforeValidator(_by_name)] = None
    """Reward function as `module:function` or `file.py:function` with verl's signature
    `compute_score(data_source, solution_str, ground_truth, extra_info)`; null uses the task's own."""
