"""Reading a `Config`, or the settings of another program: a YAML file, then `a.b=c` overrides; errors that say
what to write instead.

A value is read as the type of its setting. Where that is a text or a path, the value is the text as it is written, so
`folder=2e5`, `folder: 007` and `folder="a #b"` mean folders of these names. Other values are YAML.
"""

import difflib
import json
import shlex
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

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
    """Defaults, then the file, then the overrides, such as `learner.lr=3e-5`.

    Raises:
        ConfigError: an unknown key (with the nearest valid one), a missing one, a wrong type, a value out
            of range, settings at odds with each other, or an unreadable file. All at once.
    """
    tree = _read(kind, file) if file else {}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise ConfigError(f"{override!r} is no setting; write key=value, such as seed=1")
        if key != key.rstrip():  # as in "key = value"
            text = text.lstrip()
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


def _read(kind: type[Settings], file: Path) -> dict[str, Any]:
    try:
        tree = _from_yaml(kind, file.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {file}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid YAML: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{file} holds {type(tree).__name__}; it must hold `key: value` lines")
    return tree


def _parse(kind: type[Settings], key: str, text: str) -> Any:
    """The value of an override: of a setting that is a text, the text; else YAML, as lists are too."""
    field = dict(_fields(kind)).get(key)
    wanted: Any = kind
    for name in key.split("."):
        wanted = _within(_alternatives(wanted), name)
    options = _alternatives(wanted)
    if field is not None and not text.strip() and types.NoneType not in options:
        raise ConfigError(f"{key}= has no value; write {key}=...{_about(field)}")
    lists = any(get_origin(option) is list for option in options)
    if _takes_text(options) and not (lists and text.lstrip().startswith("[")):
        if text in ("", "null") and types.NoneType in options:
            return None
        return _unquoted(text)
    try:
        return _from_yaml(wanted, text)
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or error
        advice = ""
        if _takes_text(options):
            quoted = shlex.quote(f"{key}={json.dumps(text, ensure_ascii=False)}")
            advice = (
                "; what begins with [ is a list, and a text that does has to have quotes of its own, within "
                f"those of the shell: {quoted}"
            )
        raise ConfigError(
            f"{key}={text}: the value is not valid YAML: {reason}{advice}{_about(field)}"
        ) from None


def _about(field: FieldInfo | None) -> str:
    """What a setting is, in brackets, where that is known."""
    return f" ({' '.join(field.description.split())})" if field and field.description else ""


def _unquoted(text: str) -> str:
    """A text without its quotes, if all of it stands in quotes as YAML has them."""
    if text[:1] not in ("'", '"'):
        return text
    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError:
        return text
    if isinstance(node, yaml.ScalarNode) and node.end_mark.index == len(text):
        return str(node.value)
    return text


def _from_yaml(wanted: Any, text: str) -> Any:
    """What the text holds, read as settings of these types.

    Raises:
        yaml.YAMLError: it is not valid YAML.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _resolve(loader, node, wanted)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _resolve(loader: yaml.SafeLoader, node: yaml.Node, wanted: Any) -> None:
    """Decide by the settings' types what scalars without quotes are, where YAML would go by their looks."""
    options = _alternatives(wanted)
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)
        for key, value in node.value:
            _resolve(loader, value, _within(options, key.value))
    elif isinstance(node, yaml.SequenceNode):
        items = [
            arg for option in options for arg in get_args(option) if get_origin(option) is list
        ]
        for value in node.value:
            _resolve(loader, value, Union[tuple(items)] if items else Any)  # noqa: UP007
    elif isinstance(node, yaml.ScalarNode) and node.style is None:
        null = node.tag == "tag:yaml.org,2002:null"
        if _takes_text(options) and not (null and types.NoneType in options):
            node.tag = "tag:yaml.org,2002:str"
        elif (int in options or float in options) and node.tag == "tag:yaml.org,2002:int":
            _resolve_whole_number(node)


def _resolve_whole_number(node: yaml.ScalarNode) -> None:
    """Of YAML's own, 010 is eight, and 1:30 ninety: the one is ten here, the other no number."""
    try:
        node.value = str(int(node.value))
    except ValueError:
        node.tag = "tag:yaml.org,2002:str"


def _within(options: Sequence[Any], key: Any) -> Any:
    """The type of what stands under a key."""
    for option in options:
        if isinstance(option, type) and issubclass(option, BaseModel):
            field = option.model_fields.get(key) if isinstance(key, str) else None
            return Any if field is None else field.annotation
        if get_origin(option) is dict:
            return get_args(option)[1]
    return Any


def _alternatives(wanted: Any) -> tuple[Any, ...]:
    """The types that a type is one of: (str, NoneType) for `str | None`."""
    if get_origin(wanted) is Annotated:
        return _alternatives(get_args(wanted)[0])
    if get_origin(wanted) in (Union, types.UnionType):
        return tuple(one for arg in get_args(wanted) for one in _alternatives(arg))
    return (wanted,)


def _takes_text(options: Sequence[Any]) -> bool:
    return any(
        option in (str, Path)
        or (get_origin(option) is Literal and all(isinstance(a, str) for a in get_args(option)))
        for option in options
    )


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *groups, last = key.split(".")
    for group in groups:
        if tree.get(group) is None:  # a file may say null, of a group that is left out by default
            tree[group] = {}
        child = tree[group]
        if not isinstance(child, dict):
            raise ConfigError(f"{key}: {group} is a single setting, it has no {last!r} within it")
        tree = child
    tree[last] = value


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """The settings by their keys. A group that may be null is a setting itself, and followed by what is in it."""
    for name, field in model.model_fields.items():
        kinds = _alternatives(field.annotation)
        groups = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not groups or len(kinds) > 1:
            yield prefix + name, field
        for kind in groups:
            yield from _fields(kind, f"{prefix}{name}.")


def _type_name(field: FieldInfo) -> str:
    kind = field.annotation
    name = kind.__name__ if isinstance(kind, type) else str(kind)
    for clutter in ("typing.", "pathlib."):
        name = name.replace(clutter, "")
    return name.replace("Literal", "one of ")


_BRANCHES = ("str", "list[", "literal[")
"""How pydantic names a type that a setting may be one of."""


def _explain(kind: type[Settings], error: Any) -> str:
    # pydantic names the branch of a union too (`str`, `list[str]`): no part of the user's key.
    key = ".".join(str(part) for part in error["loc"] if not str(part).startswith(_BRANCHES))
    value = error["input"]
    if error["type"] == "extra_forbidden":
        return "\n".join(
            f"{leaf}={inner!r}: there is no such setting; {_nearest(kind, leaf)}"
            for leaf, inner in _leaves(key, value)
        )
    if error["type"] == "missing":
        missing = [k for k, field in _fields(kind) if k.startswith(key) and field.is_required()]
        return f"{' and '.join(missing)} must be set, as in {missing[0]}=..."
    if error["type"] == "value_error":
        message = str(error["ctx"]["error"])
        return f"{key}={value!r}: {message}" if key else message
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
    yield from _flattened(config)


def _flattened(group: Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in type(group).model_fields.items():
        value = getattr(group, name)
        if field.annotation is type(value) and isinstance(value, Settings):
            yield from _flattened(value, f"{prefix}{name}.")
        else:  # a group that may be null is one setting
            yield prefix + name, value
