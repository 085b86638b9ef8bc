"""Types of settings, and the base class of their groups."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from dps_ray.paths import expanded
from dps_ray.plain_settings import Count, Limits, Natural, Share

__all__ = [
    "HOME",
    "TEMPLATE",
    "Count",
    "Natural",
    "NullableSettings",
    "Seconds",
    "Settings",
    "Share",
    "each_text",
]

Seconds = Annotated[float, Limits(gt=0.0)]


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


class NullableSettings(Settings):
    """Base of the groups that may be null, and are written as one setting: `{rank: 8, alpha: 16}`."""

    def __str__(self) -> str:
        """As it is written in an override."""
        inner = self.model_dump(mode="json").items()
        return "{" + ", ".join(f"{key}: {value}".replace("'", "") for key, value in inner) + "}"
