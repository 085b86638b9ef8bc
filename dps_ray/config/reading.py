"""Reading settings from a YAML file and `a.b=c` overrides, or from Python; errors say what to write instead.

A value is read as the type of its setting. Where that is a text or a path, the value is the text as it is written, so
`folder=2e5`, `folder: 007` and `folder="a #b"` mean folders of these names. Other values are YAML.
"""

import json
import shlex
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from dps_ray.config.earlier import translated
from dps_ray.config.explain import explained
from dps_ray.config.files import config_file
from dps_ray.config.tree import alternatives, fields, settings_in, shape, within
from dps_ray.errors import ConfigError
from dps_ray.selection import methods
from dps_ray.selection.settings import SelectorSettings
from dps_ray.setting_types import Settings

T = TypeVar("T", bound=Settings)


def load_as(kind: type[T], file: Path | None, overrides: Sequence[str] = ()) -> T:
    """Defaults, then the file, then the overrides, such as `learner.lr=3e-5`.

    Raises:
        ConfigError: an unknown key (with the nearest valid one), a missing one, a wrong type, a value out
            of range, settings at odds with each other, or an unreadable file. All at once.
    """
    tree = _read(kind, file) if file else {}
    given = [_split(override) for override in overrides]
    method = tree.get("method", "dps")
    chosen = [_parse(kind, key, text) for key, text in given if key == "method"]
    if chosen and "selector" in kind.model_fields:
        _leave_out_of_selector(kind, tree, method, chosen[-1])
        method = chosen[-1]
    for key, text in given:
        _set(tree, key, _parse(shape(kind, method), key, text))
    return validated(kind, tree)


def compose(kind: type[T], name: str | Path | None, given: Mapping[str, Any]) -> T:
    """Returns settings made of defaults, a file and what is given; see `Config.load`."""
    tree = _read(kind, config_file(str(name), said="configuration ")) if name is not None else {}
    given = dict(given)
    if isinstance(given.get("selector"), SelectorSettings):
        given.setdefault("method", methods.name_by_settings(type(given["selector"])))
    if isinstance(given.get("method"), type):
        given["method"] = methods.name_of(given["method"])
    if "method" in given:
        _leave_out_of_selector(kind, tree, tree.get("method", "dps"), given["method"])
    return validated(kind, _merged(tree, given))


def _merged(tree: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tree with what is given in place of what it had, group by group."""
    merged = dict(tree)
    for key, value in given.items():
        before = merged.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            value = _merged(before, value)
        merged[key] = value
    return merged


def _split(override: str) -> tuple[str, str]:
    """Key and text of an override."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"{override!r} is no setting; write key=value, such as seed=1")
    return key.strip(), text.lstrip() if key != key.rstrip() else text  # as in "key = value"


def _leave_out_of_selector(
    kind: type[Settings], tree: dict[str, Any], before: Any, method: Any
) -> None:
    """Take out what a file sets for its own method, where an override names another that has no such setting."""
    old: Any = shape(kind, before).model_fields["selector"].annotation
    new: Any = shape(kind, method).model_fields["selector"].annotation
    selector = tree.get("selector")
    if isinstance(selector, dict):
        foreign = settings_in(old).keys() - settings_in(new).keys()
        tree["selector"] = {key: value for key, value in selector.items() if key not in foreign}


def validated(kind: type[T], tree: Any) -> T:
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise explained(kind, tree, error) from None


def _read(kind: type[Settings], file: Path) -> dict[str, Any]:
    try:
        text = file.read_text()
        raw = yaml.safe_load(text)
        method = raw.get("method", "dps") if isinstance(raw, dict) else None
        tree = translated(_from_yaml(shape(kind, method), text))
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
    field = dict(fields(kind)).get(key)
    wanted: Any = kind
    for name in key.split("."):
        wanted = within(alternatives(wanted), name)
    options = alternatives(wanted)
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
    options = alternatives(wanted)
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)
        for key, value in node.value:
            _resolve(loader, value, within(options, key.value))
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
