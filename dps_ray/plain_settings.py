"""Settings that need the standard library alone: frozen dataclasses that check themselves.

Selectors and rules for solve states declare theirs with these, so that they work with NumPy and nothing else. Where
settings come from files, `dps_ray.config` has pydantic read the same declarations.
"""

import dataclasses
import operator
import types
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
)
from typing import get_type_hints as hints_of

from dps_ray.errors import ConfigError

if TYPE_CHECKING:
    from typing import dataclass_transform
else:  # Python 3.10 has none, and only type checkers look at it

    def dataclass_transform(**given):
        return lambda kind: kind


T = TypeVar("T", bound="PlainSettings")

_BOUNDS = (
    ("ge", operator.ge, "{:g} or more"),
    ("gt", operator.gt, "above {:g}"),
    ("le", operator.le, "{:g} or less"),
    ("lt", operator.lt, "below {:g}"),
)


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of a number, for `Annotated[float, Limits(gt=0.0)]`; None: no limit on this side."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def check(self, value: float) -> None:
        """Raises ConfigError where a value is outside."""
        for name, fits, said in _BOUNDS:
            limit = getattr(self, name)
            if limit is not None and not fits(value, limit):
                raise ConfigError(f"it must be {said.format(limit)}")

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        """The limits as pydantic has them."""
        given = {name: limit for name, limit in vars(self).items() if limit is not None}
        schema: dict[str, Any] = handler(source)
        return schema | given


Share = Annotated[float, Limits(ge=0.0, le=1.0)]
Count = Annotated[int, Limits(ge=1)]
Natural = Annotated[int, Limits(ge=0)]


@dataclass_transform(frozen_default=True, kw_only_default=True)
class PlainSettings:
    """Base of groups of settings. A subclass declares a setting by type and default, and explains it in a text below:

        class Settings(PlainSettings):
            decay: Share = 0.7
            \"\"\"Weight of the past.\"\"\"

    Types are float, int, bool, str, `Literal`, unions of them with None, and with `Limits`; others are not checked.

    A check of several settings together is a `__post_init__` that begins with `super().__post_init__()`, and raises
    ValueError.
    """

    _types: ClassVar[Mapping[str, Any]]  # see `types_of`
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012, pydantic looks for this very name

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)

    def __post_init__(self) -> None:
        """Raises ConfigError for a value that is not of its type."""
        for name, wanted in types_of(type(self)).items():
            value = getattr(self, name)
            try:
                object.__setattr__(self, name, _fitted(value, wanted))
            except ConfigError as error:
                raise ConfigError(f"{name}={value!r}: {error}") from None


def made(kind: type[T], given: Mapping[str, Any]) -> T:
    """Returns the settings with these values, and defaults for the others.

    Raises:
        ConfigError: there is no such setting, or a value is wrong.
    """
    known = types_of(kind)
    for name, value in given.items():
        if name not in known:
            raise ConfigError(
                f"{name}={value!r}: there is no such setting; there are {', '.join(known)}"
            )
    missing = [
        field.name
        for field in _fields(kind)
        if field.default is dataclasses.MISSING and field.name not in given
    ]
    if missing:
        raise ConfigError(f"{missing[0]} must be set")
    try:
        return kind(**given)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from None


def types_of(kind: type[PlainSettings]) -> Mapping[str, Any]:
    """Returns the settings of a class and their types, in the order of declaration."""
    found: Mapping[str, Any] | None = vars(kind).get("_types")
    if found is None:
        hints = hints_of(kind, include_extras=True)
        found = {field.name: hints[field.name] for field in _fields(kind)}
        kind._types = found
    return found


def _fields(kind: type[PlainSettings]) -> tuple["dataclasses.Field[Any]", ...]:
    return dataclasses.fields(kind)  # type: ignore[arg-type]  # every subclass is a dataclass


def _fitted(value: Any, wanted: Any) -> Any:
    """Returns the value as one of this type. Raises ConfigError where it is not."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin is Annotated:
        fitted = _fitted(value, inner[0])
        for limits in inner[1:]:
            if isinstance(limits, Limits):
                limits.check(fitted)
        return fitted
    if origin in (Union, types.UnionType):
        return _fitted_to_one(value, inner)
    if origin is Literal:
        if value not in inner:
            raise ConfigError(f"it must be {' or '.join(map(repr, inner))}")
        return value
    for kind, accepted, said in (
        (types.NoneType, types.NoneType, "None"),
        (bool, bool, "True or False"),
        (float, Real, "a number"),
        (int, Integral, "an integer"),
        (str, str, "a string"),
    ):
        if wanted is kind:
            if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
                raise ConfigError(f"it must be {said}")
            return value if kind is types.NoneType else kind(value)
    return value


def _fitted_to_one(value: Any, kinds: tuple[Any, ...]) -> Any:
    if value is None and types.NoneType in kinds:
        return None
    said = []
    for kind in kinds:
        if kind is not types.NoneType:
            try:
                return _fitted(value, kind)
            except ConfigError as error:
                said.append(str(error))
    raise ConfigError("; or ".join(said))
