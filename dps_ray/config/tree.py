"""The settings of a group as a tree: keys such as `learner.lr`, and the type of each."""

import functools
import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, create_model
from pydantic.fields import FieldInfo

from dps_ray.errors import ConfigError
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
def _with_selector(kind: type[Settings], selector: type[Settings]) -> type[Settings]:
    return create_model(kind.__name__, __base__=kind, selector=(selector, selector()))


def within(options: Sequence[Any], key: Any) -> Any:
    """The type of what stands under a key."""
    for option in options:
        if isinstance(option, type) and issubclass(option, BaseModel):
            field = option.model_fields.get(key) if isinstance(key, str) else None
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


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """The settings by their keys. A group that may be null is a setting itself, and followed by what is in it."""
    for name, field in model.model_fields.items():
        kinds = alternatives(field.annotation)
        groups = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not groups or len(kinds) > 1:
            yield prefix + name, field
        for kind in groups:
            yield from fields(kind, f"{prefix}{name}.")
