"""The settings of a run as text: read, written, listed and told apart."""

import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from dps_ray.config.config import Config
from dps_ray.config.earlier import translated
from dps_ray.config.reading import load_as, validated
from dps_ray.config.tree import alternatives, fields, is_group, settings_in
from dps_ray.selection import methods
from dps_ray.selection.settings import SelectorSettings
from dps_ray.setting_types import Settings


def load(file: Path | None, overrides: Sequence[str] = ()) -> Config:
    """A run's configuration; see `load_as`."""
    return load_as(Config, file, overrides)


def loads(text: str) -> Config:
    """Returns the configuration that `dump` gave this text of; settings of selectors as earlier versions wrote them
    are understood.

    Raises:
        ConfigError: another version wrote it, whose settings are not those of now.
    """
    return validated(Config, translated(yaml.safe_load(text)))


def dump(config: Settings) -> str:
    """All settings as YAML; `load_as`, and `loads` of a `Config`, read it back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def describe(kind: type[Settings] = Config) -> Iterator[tuple[str, str, Any, str]]:
    """Yields every setting as (key, type, default, what it does), in the order of declaration.

    Settings that only some selection methods have come after those that all have, and name their methods.
    """
    group = ""
    for key, field in fields(kind):
        if group == "selector" and not key.startswith("selector."):
            yield from _of_some_methods()
        group = key.partition(".")[0]
        yield _described(key, field)


def _of_some_methods() -> Iterator[tuple[str, str, Any, str]]:
    of: dict[tuple[str, str, Any, str], list[str]] = {}
    for name, method in methods.BUILT_IN.items():
        for key, field in settings_in(method.Settings).items():
            if key not in settings_in(SelectorSettings):
                of.setdefault(_described(f"selector.{key}", field), []).append(name)
    for (key, kind, default, text), names in of.items():
        yield key, kind, default, f"Only for {', '.join(names)}.\n{text}"


def _described(key: str, field: FieldInfo) -> tuple[str, str, Any, str]:
    default = field.get_default(call_default_factory=True)
    return (
        key,
        _type_name(field),
        "..." if field.is_required() else default,
        field.description or "",
    )


def _type_name(field: FieldInfo) -> str:
    """The type in words, such as `int | null` or `one of ['skip', 'error']`."""
    return " | ".join(_name(one) for one in alternatives(field.annotation))


def _name(kind: Any) -> str:
    if kind is types.NoneType:
        return "null"
    if get_origin(kind) is Literal:
        return f"one of {list(get_args(kind))}"
    parts = [_name(one) for part in get_args(kind) for one in alternatives(part)]
    name = getattr(get_origin(kind) or kind, "__name__", str(kind))
    return f"{name}[{', '.join(parts)}]" if parts else name


def flatten(config: Config) -> Iterator[tuple[str, Any]]:
    """Every setting as (key, value)."""
    yield from _flattened(config)


def _flattened(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in settings_in(type(group)).items():
        value = getattr(group, name)
        if is_group(type(value)) and isinstance(field.annotation, type):
            yield from _flattened(value, f"{prefix}{name}.")
        else:  # a group that may be null is one setting
            yield prefix + name, value
