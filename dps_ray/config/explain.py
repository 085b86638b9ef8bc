"""Error messages for wrong settings: the setting, its value, and what to write instead."""

import difflib
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from dps_ray.config.tree import fields, is_group, settings_in, shape
from dps_ray.errors import ConfigError
from dps_ray.selection import methods
from dps_ray.setting_types import Settings

_BRANCHES = ("str", "list[", "literal[")
"""How pydantic names a type that a setting may be one of."""


def explained(kind: type[Settings], tree: Any, error: ValidationError) -> ConfigError:
    """Returns what is wrong with these settings of `kind`, all at once."""
    method = tree.get("method", "dps") if isinstance(tree, dict) else None
    return ConfigError("\n".join(_explain(shape(kind, method), method, e) for e in error.errors()))


def _explain(kind: type[Settings], method: Any, error: Any) -> str:
    # pydantic names the branch of a union too (`str`, `list[str]`): no part of the user's key.
    key = ".".join(str(part) for part in error["loc"] if not str(part).startswith(_BRANCHES))
    value = error["input"]
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return "\n".join(
            f"{leaf}={inner!r}: "
            + (
                _of_another_method(kind, method, leaf)
                or f"there is no such setting; {_nearest(kind, leaf)}"
            )
            for leaf, inner in _leaves(key, value)
        )
    if error["type"] == "missing":
        missing = [k for k, field in fields(kind) if k.startswith(key) and field.is_required()]
        return f"{' and '.join(missing)} must be set, as in {missing[0]}=..."
    if error["type"] == "value_error":
        message = str(error["ctx"]["error"])
        single = key and not (isinstance(value, dict) or is_group(type(value)))
        return f"{key}={value!r}: {message}" if single else message
    message = error["msg"][0].lower() + error["msg"][1:]
    if key.startswith("selector.") and error["type"] == "literal_error":
        message += f" with method={method}"
    return f"{key}={value!r}: {message}"


def _of_another_method(kind: type[Settings], method: Any, key: str) -> str | None:
    """Which methods have this setting of a selector, if any has."""
    group, _, name = key.partition(".")
    of = [known for known, its in methods.BUILT_IN.items() if name in settings_in(its.Settings)]
    if group != "selector" or not of or "selector" not in kind.model_fields:
        return None
    here = [known.partition(".")[2] for known, _ in fields(kind) if known.startswith("selector.")]
    return f"{key} is a setting of {', '.join(of)}; method={method} has {', '.join(here)}"


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(f"{key}.{name}", inner)
    else:
        yield key, value


def _nearest(kind: type[Settings], key: str) -> str:
    keys = [known for known, _ in fields(kind)]
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
