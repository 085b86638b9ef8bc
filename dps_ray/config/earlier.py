"""Configurations as earlier versions wrote them.

All methods once shared one group `selector`, and a run's config.yaml held the settings of all of them.
`objective.norm_by_std` is now `objective.scale`.
"""

from typing import Any

from dps_ray.errors import ConfigError
from dps_ray.objective.settings import with_scale
from dps_ray.plain_settings import types_of
from dps_ray.selection import methods

_DEFAULTS = {
    "cluster_column": None,
    "cluster_decay": 0.9,
    "cluster_strength": 10.0,
    "temperature": None,
    "rest": None,
    "max_uses": None,
    "fresh_share": 0.0,
    "decay": 0.7,
    "prior": "uniform",
    "entropy_weight": 0.0,
    "observation": None,
    "beta_decay": 0.5,
    "variance_decay": 0.7,
    "candidates": None,
}
_OF_TWO_METHODS = {"beta_decay", "variance_decay"}  # no method has both


def translated(tree: Any) -> Any:
    """Returns the configuration in today's settings, and without what an earlier version wrote down for methods other than
    the run's own.

    Settings of other methods had no effect. Those of the run's method that are at their defaults of then are left out
    too: null meant what is the method's own default now. Other configurations are returned as they are.
    """
    if isinstance(tree, dict) and isinstance(tree.get("objective"), dict):
        tree = {**tree, "objective": with_scale(tree["objective"])}
    selector = tree.get("selector") if isinstance(tree, dict) else None
    if not isinstance(selector, dict) or not selector.keys() >= _OF_TWO_METHODS:
        return tree
    try:
        own = types_of(methods.load(str(tree.get("method", "dps"))).Settings)
    except ConfigError:
        return tree
    kept = {
        key: value
        for key, value in selector.items()
        if key not in _DEFAULTS or (key in own and value != _DEFAULTS[key])
    }
    return {**tree, "selector": kept}
