"""Reading a `Config`, or the settings of another program: a YAML file, then `a.b=c` overrides; errors that say
what to write instead."""

import difflib
import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from dps_ray.config import Config, Settings
from dps_ray.errors import ConfigError

T = TypeVar("T", bound=Settings)


def load(file: Path | None, overrides: Sequence[str] = ()) -> Config:
    """A run's configuration; see `load_as`."""
    return load_as(Config, file, overrides)


def load_as(kind: type[T], file: Path | None, overrides: Sequence[str] = ()) -> T:
    """Defaults, then the file, then the overrides (`learner.lr=3e-5`; values are YAML).

    Raises:
        ConfigError: an unknown key (with the nearest valid one), a missing one, a wrong type, a value out
            of range, settings at odds with each other, or an unreadable file. All at once.
    """
    tree = _read(file) if file else {}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise ConfigError(f"{override!r} is no setting; write key=value, such as seed=1")
        _set(tree, key.strip(), _parse(kind, key.strip(), text))
    return _validated(kind, tree)


def loads(text: str) -> Config:
    """The configuration that `dump` gave this text of.

    Raises:
        ConfigError: another version wrote it.
    """
    return _validated(Config, yaml.safe_load(text))


def dump(config: Settings) -> str:
    """All settings as YAML; `load_as`, and `loads` of a `Config`, read it back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def describe(kind: type[Settings] = Config) -> Iterator[tuple[str, str, Any, str]]:
    """Every setting as (key, type, default, what it does), in the order of declaration."""
    for key, field in _fields(kind):
        default = field.get_default(call_default_factory=True)
        yield (
            key,
            _type_name(field),
            "..." if field.is_required() else default,
            field.description or "",
        )


def _validated(kind: type[T], tree: Any) -> T:
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(kind, e) for e in error.errors())) from None


def _read(file: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(file.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {file}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not valid YAML: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{file} holds {type(tree).__name__}; it must hold `key: value` lines")
    return tree


def _parse(kind: type[Settings], key: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or error
        field = dict(_fields(kind)).get(key)
        about = f" ({' '.join(field.description.split())})" if field and field.description else ""
        quoted = shlex.quote(f"{key}={json.dumps(text, ensure_ascii=False)}")
        raise ConfigError(
            f"{key}={text}: the value is not valid YAML: {reason}; a text with such characters has to have quotes "
            f"of its own, within those of the shell: {quoted}{about}"
        ) from None


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *groups, last = key.split(".")
    for group in groups:
        child = tree.setdefault(group, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{key}: {group} is a single setting, it has no {last!r} within it")
        tree = child
    tree[last] = value


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _fields(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def _type_name(field: FieldInfo) -> str:
    kind = field.annotation
    name = kind.__name__ if isinstance(kind, type) else str(kind)
    for clutter in ("typing.", "pathlib."):
        name = name.replace(clutter, "")
    return name.replace("Literal", "one of ")


def _explain(kind: type[Settings], error: Any) -> str:
    # pydantic names the branch of a union too (`str`, `list[str]`): no part of the user's key.
    key = ".".join(str(part) for part in error["loc"] if not str(part).startswith(("str", "list[")))
    value = error["input"]
    if error["type"] == "extra_forbidden":
        return "\n".join(
            f"{leaf}={inner!r}: there is no such setting; {_nearest(kind, leaf)}"
            for leaf, inner in _leaves(key, value)
        )
    if error["type"] == "missing":
        missing = [k for k, field in _fields(kind) if k.startswith(key) and field.is_required()]
        return f"{' and '.join(missing)} must be set, as in {missing[0]}=..."
    if error["type"] == "value_error" and not key:
        return str(error["ctx"]["error"])
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{key}={value!r}: {message}"


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(f"{key}.{name}", inner)
    else:
        yield key, value


def _nearest(kind: type[Settings], key: str) -> str:
    keys = [known for known, _ in _fields(kind)]
    group, _, name = key.rpartition(".")
    # The right name in the wrong group is the likeliest slip; then a slip of the pen.
    close = [known for known in keys if known.rpartition(".")[2] == name]
    close = close or difflib.get_close_matches(key, keys, n=1, cutoff=0.75)
    if close:
        return f"did you mean {close[0]}?"
    siblings = [known.rpartition(".")[2] for known in keys if known.rpartition(".")[0] == group]
    if siblings:
        return f"{group or 'the top level'} has {', '.join(siblings)}"
    return "--help lists them all"


def flatten(config: Config) -> Iterator[tuple[str, Any]]:
    """Every setting as (key, value)."""
    for key, _ in _fields(Config):
        value: Any = config
        for name in key.split("."):
            value = getattr(value, name)
        yield key, value
