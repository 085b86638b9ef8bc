"""Selection methods to compare DPS with, all behind the one protocol (`dps_ray.selection.selector.Selector`).

| class | what it does | learns from |
|---|---|---|
| `HistoryResampling` (SRPO) | uniform by epochs, without the prompts solved when last seen | states |
| `MoPPS` | draws each success rate from its Beta, takes those nearest 0.5 | counts |
| `MaPP` | samples by P(the group is mixed) under the Beta; `greedy`: the largest | counts |
| `GRESO` | uniform by epochs, skips by the streak of groups without variance | states of all shards |
| `VarianceEMA` (control) | largest running mean of 4p(1 - p) | counts |
| `OfflineFilter` | uniform among the prompts that the start policy solved sometimes | an evaluation before the run |
| `Recency` (control) | last partial first, then never seen, then the oldest | states |
| `RateHMM` (`dps` with `selector.observation=counts`) | largest P(the group is mixed), the rate a moving one | counts of all shards |
| `RewardMoments` (`dps` with `selector.observation=rewards`) | largest P(the rewards of the group vary) | scores |
| `Oracle` (simulation) | largest true P(the group is mixed) | `set_rates` |

`dps_ray.UniformSelector`, `dps_ray.BeliefStore` (DPS) and `dps_ray.selection.pooled.PooledStore` are the others; Dynamic Sampling is uniform
selection with the loop's group filter. All give the same batches for any number of shards.
"""

from typing import Any

from numpy.typing import ArrayLike

from dps_ray.errors import ConfigError
from dps_ray.plugins import load_object, spec_of
from dps_ray.selection.coverage import CoverageLimits
from dps_ray.selection.methods.dps import BeliefStore
from dps_ray.selection.methods.greso import GRESO
from dps_ray.selection.methods.history_resampling import HistoryResampling
from dps_ray.selection.methods.mapp import MaPP
from dps_ray.selection.methods.mopps import MoPPS
from dps_ray.selection.methods.offline_filter import OfflineFilter
from dps_ray.selection.methods.oracle import Oracle
from dps_ray.selection.methods.rate_hmm import RateHMM
from dps_ray.selection.methods.recency import Recency
from dps_ray.selection.methods.reward_moments import RewardMoments
from dps_ray.selection.methods.uniform import UniformSelector
from dps_ray.selection.methods.variance_ema import VarianceEMA
from dps_ray.selection.pooled import PooledStore
from dps_ray.selection.selector import Context, Selector
from dps_ray.selection.settings import SelectorSettings

__all__ = [
    "BUILT_IN",
    "GRESO",
    "HistoryResampling",
    "MaPP",
    "MoPPS",
    "OfflineFilter",
    "Oracle",
    "RateHMM",
    "Recency",
    "RewardMoments",
    "VarianceEMA",
    "load",
    "make",
    "name_by_settings",
    "name_of",
]

BUILT_IN: dict[str, Any] = {
    "dps": BeliefStore,
    "dps_pooled": PooledStore,
    "uniform": UniformSelector,
    "history_resampling": HistoryResampling,
    "mopps": MoPPS,
    "mapp": MaPP,
    "greso": GRESO,
    "variance_ema": VarianceEMA,
    "recency": Recency,
    "offline_filter": OfflineFilter,
}
_PROTOCOL = (
    "make",
    "__len__",
    "select",
    "observe",
    "times_sampled",
    "metrics",
    "snapshot",
    "load_state",
)


def load(method: str) -> Any:
    """Returns the selector class that a configuration's `method` names.

    method: one of `BUILT_IN`, or a class of the user's own: `package.module:Class` or `path/to/file.py:Class`.

    Raises:
        ConfigError: there is no such method or class, or it cannot be used as a selector.
    """
    if method in BUILT_IN:
        return BUILT_IN[method]
    if ":" not in method:
        *names, last = map(repr, BUILT_IN)
        raise ConfigError(
            f"input should be {', '.join(names)} or {last}, or a class of your own, such as path/to/file.py:Class "
            "or package.module:Class"
        )
    found = load_object(method, "selector", "class")
    if not isinstance(found, type):
        raise ConfigError(f"{method} is no class; name a class of selectors")
    missing = [name for name in _PROTOCOL if not callable(getattr(found, name, None))]
    if missing:
        raise ConfigError(
            f"the class {method} has no {', '.join(missing)}; a selector has {', '.join(_PROTOCOL)}, see docs/extending.md"
        )
    settings = getattr(found, "Settings", None)
    if not (isinstance(settings, type) and issubclass(settings, SelectorSettings)):
        raise ConfigError(
            f"the class {method} has no class Settings within it; declare one that derives from "
            "dps_ray.selection.settings.SelectorSettings, with `pass` for its body if it has no settings of its own"
        )
    return found


def name_of(selector: type) -> str:
    """Returns what `method` is for this class: the inverse of `load`.

    Raises:
        ConfigError: the class is in no file, so that other processes cannot load it.
    """
    for name, known in BUILT_IN.items():
        if known is selector:
            return name
    return spec_of(selector)


def name_by_settings(settings: type[SelectorSettings]) -> str:
    """Returns what `method` is for the class that has this class for its `Settings`.

    Raises:
        ConfigError: there is no such class.
    """
    for name, known in BUILT_IN.items():
        if known.Settings is settings:
            return name
    spec, dot, last = spec_of(settings).rpartition(".")
    if not dot or last != "Settings" or ":" not in spec or spec.startswith("dps_ray."):
        raise ConfigError(
            f"{settings.__qualname__} is not the Settings of one selector; give method too, such as method=dps"
        )
    return spec


def make(method: str, ids: ArrayLike, settings: SelectorSettings, context: Context) -> Selector:
    """Returns the selector that a configuration's `method` names, within the limits that its settings set.

    Args:
        ids: int64 (n,), the prompts of this shard.
        settings: of the class `load(method).Settings`.

    Raises:
        ConfigError: there is no method of this name.
    """
    selector: Selector = load(method).make(ids, settings, context)
    own = settings.rests_by_itself
    rest = 0 if own or settings.rest is None else settings.rest
    max_uses = None if own else settings.max_uses
    if rest or max_uses is not None or settings.fresh_share:
        return CoverageLimits(selector, rest, max_uses, settings.fresh_share)
    return selector
