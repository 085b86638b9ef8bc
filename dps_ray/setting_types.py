"""Types of settings, and the base class of their groups."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict

from dps_ray.paths import expanded
from dps_ray.plain_settings import HOME, Count, EachText, Limits, Natural, Share

__all__ = [
    "HOME",
    "TEMPLATE",
    "Count",
    "EachText",
    "Natural",
    "NullableSettings",
    "Seconds",
    "Settings",
    "Share",
]

Seconds = Annotated[float, Limits(gt=0.0)]


def _template_or_path(text: str) -> str:
    return text if "{{" in text or "{%" in text else expanded(text)


TEMPLATE = EachText(_template_or_path)
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
