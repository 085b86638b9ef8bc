"""The settings of a group as a tree: keys such as `learner.lr`, and the type of each."""

import ast
import dataclasses
import functools
import inspect
import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, create_model
from pydantic.fields import FieldInfo

from dps_ray.errors import ConfigError
from dps_ray.plain_settings import PlainSettings, types_of
from dps_ray.selection import methods
from dps_ray.setting_types import Settings


def shape(kind: type[Settings], method: Any) -> type[Settings]:
    """Returns a class with the settings that `kind` has with this method, those of its selector included.

    It says keys and types; configurations are of `kind` itself.
    """
    if "selector" not in kind.model_fields:
        return kind
    try:
        return _with_selector(kind, methods.load(method).Settings)
    except (ConfigError, AttributeError, TypeError):  # no method, which validation will say
        return kind


@functools.cache
def _with_selector(kind: type[Settings], selector: type[PlainSettings]) -> type[Settings]:
    return create_model(kind.__name__, __base__=kind, selector=(selector, selector()))


def is_group(kind: Any) -> bool:
    """Whether this is a class of settings."""
    return isinstance(kind, type) and issubclass(kind, (BaseModel, PlainSettings))


def settings_in(group: type[BaseModel] | type[PlainSettings]) -> Mapping[str, FieldInfo]:
    """The settings of a group by their names, as pydantic describes them."""
    return group.model_fields if issubclass(group, BaseModel) else _described(group)  # type: ignore[arg-type]


@functools.cache
def _described(group: Any) -> dict[str, FieldInfo]:
    texts: dict[str, str] = {}
    for kind in reversed(group.__mro__):
        if issubclass(kind, PlainSettings):
            texts |= _texts(kind)
    found = {}
    for setting in dataclasses.fields(group):
        default = ... if setting.default is dataclasses.MISSING else setting.default
        field = FieldInfo.from_annotated_attribute(types_of(group)[setting.name], default)
        field.description = texts.get(setting.name)
        found[setting.name] = field
    return found


def _texts(kind: type) -> dict[str, str]:
    """The texts below the settings that a class itself declares; none where its source is not to be had."""
    try:
        (declared,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError, SyntaxError):
        return {}
    assert isinstance(declared, ast.ClassDef)
    return {
        setting.target.id: inspect.cleandoc(text.value.value)
        for setting, text in pairwise(declared.body)
        if isinstance(setting, ast.AnnAssign)
        and isinstance(setting.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def within(options: Sequence[Any], key: Any) -> Any:
    """The type of what stands under a key."""
    for option in options:
        if is_group(option):
            field = settings_in(option).get(key) if isinstance(key, str) else None
            return Any if field is None else field.annotation
        if get_origin(option) is dict:
            return get_args(option)[1]
    return Any


def alternatives(wanted: Any) -> tuple[Any, ...]:
    """The types that a type is one of: (str, NoneType) for `str | None`."""
    if get_origin(wanted) is Annotated:
        return alternatives(get_args(wanted)[0])
    if get_origin(wanted) in (Union, types.UnionType):
        return tuple(one for arg in get_args(wanted) for one in alternatives(arg))
    return (wanted,)


def fields(
    model: type[BaseModel] | type[PlainSettings], prefix: str = ""
) -> Iterator[tuple[str, FieldInfo]]:
    """The settings by their keys. A group that may be null is a setting itself, and followed by what is in it."""
    for name, field in settings_in(model).items():
        kinds = alternatives(field.annotation)
        groups = [kind for kind in kinds if is_group(kind)]
        if not groups or len(kinds) > 1:
            yield prefix + name, field
        for kind in groups:
            yield from fields(kind, f"{prefix}{name}.")
