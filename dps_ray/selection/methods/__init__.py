"""Selection methods to compare DPS with, all behind the one protocol (`dps_ray.selection.selector.Selector`).

| class | what it does | learns from |
|---|---|---|
| `HistoryResampling` (SRPO) | uniform by epochs, without the prompts solved when last seen | states |
| `MoPPS` | draws each success rate from its Beta, takes those nearest 0.5 | counts |
| `MaPP` | samples by P(the group is mixed) under the Beta; `greedy`: the largest | counts |
| `GRESO` | uniform by epochs, skips by the streak of groups without variance | states of all shards |
| `VarianceEMA` (control) | largest running mean of 4p(1 - p) | counts |
| `Recency` (control) | last partial first, then never seen, then the oldest | states |
| `RateHMM` (`dps` with `selector.observation=counts`) | largest P(the group is mixed), the rate a moving one | counts of all shards |
| `RewardMoments` (likewise, `=rewards`) | largest P(the rewards of the group vary) | scores |
| `Oracle` (simulation) | largest true P(the group is mixed) | `set_rates` |

`dps_ray.UniformSelector`, `dps_ray.BeliefStore` (DPS) and `dps_ray.selection.pooled.PooledStore` are the others; Dynamic Sampling is uniform
selection with the loop's group filter. All give the same batches for any number of shards.
"""

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import ArrayLike

from dps_ray.config import SelectorSettings, StateSettings
from dps_ray.selection.coverage import Covered
from dps_ray.selection.methods.dps import BeliefStore
from dps_ray.selection.methods.greso import GRESO
from dps_ray.selection.methods.history_resampling import HistoryResampling
from dps_ray.selection.methods.mapp import MaPP
from dps_ray.selection.methods.mopps import MoPPS
from dps_ray.selection.methods.oracle import Oracle
from dps_ray.selection.methods.rate_hmm import RateHMM
from dps_ray.selection.methods.recency import Recency
from dps_ray.selection.methods.reward_moments import RewardMoments
from dps_ray.selection.methods.scored import ScoredSelector
from dps_ray.selection.methods.uniform import UniformSelector
from dps_ray.selection.methods.variance_ema import VarianceEMA
from dps_ray.selection.pooled import Clusters, PooledStore
from dps_ray.selection.selector import Selector

__all__ = [
    "GRESO",
    "HistoryResampling",
    "MaPP",
    "MoPPS",
    "Oracle",
    "RateHMM",
    "Recency",
    "RewardMoments",
    "VarianceEMA",
    "make",
    "restore",
]

_STATES = StateSettings()


def make(
    name: str,
    ids: ArrayLike,
    *,
    pool: int,
    settings: SelectorSettings,
    states: StateSettings = _STATES,
    group_size: int,
    seed: int,
    clusters: Clusters | None = None,
) -> Selector:
    """The selector that a configuration's `method` names.

    Args:
        ids: int64 (n,), the prompts of this shard.
        pool: prompts over all shards.
        states: what makes a group partial, for a method that predicts it from rewards.
        group_size: k, responses to a prompt.
        clusters: of each id, for `dps_pooled`; None: all are of one.

    Raises:
        KeyError: there is no method of this name.
    """
    observation = settings.observation_of(name)

    def by_states() -> Selector:
        return BeliefStore(
            ids,
            decay=settings.decay,
            prior=settings.prior,
            entropy_weight=settings.entropy_weight,
            seed=seed,
            temperature=settings.temperature,
        )

    def by_counts() -> Selector:
        return RateHMM(ids, seed, decay=settings.decay, group_size=group_size)

    def by_rewards() -> Selector:
        return RewardMoments(
            ids,
            seed,
            decay=settings.decay,
            group_size=group_size,
            least_std=states.least_std,
            middle=(states.low + states.high) / 2,
        )

    def by_clusters() -> Selector:
        return PooledStore(
            ids,
            clusters,
            seed,
            observation="counts" if observation == "counts" else "states",
            group_size=group_size,
            decay=settings.decay,
            memory=settings.cluster_decay,
            strength=settings.cluster_strength,
            temperature=0.25 if settings.temperature is None else settings.temperature,
            rest=settings.rest,
            max_uses=settings.max_uses,
        )

    makers: dict[str, Callable[[], Selector]] = {
        "dps": {"states": by_states, "counts": by_counts, "rewards": by_rewards}[observation],
        "dps_pooled": by_clusters,
        "uniform": lambda: UniformSelector(ids, seed),
        "history_resampling": lambda: HistoryResampling(ids, seed),
        "mopps": lambda: MoPPS(ids, seed, decay=settings.beta_decay, group_size=group_size),
        "mapp": lambda: MaPP(ids, seed, decay=settings.beta_decay, group_size=group_size),
        "greso": lambda: GRESO(ids, seed, pool=pool),
        "variance_ema": lambda: VarianceEMA(ids, seed, keep=settings.variance_decay),
        "recency": lambda: Recency(ids, seed),
        "oracle": lambda: Oracle(ids, group_size, seed),
    }
    selector = makers[name]()
    if isinstance(selector, ScoredSelector):
        selector.temperature = settings.temperature
    own = isinstance(selector, PooledStore)  # covers its pool itself
    rest = 0 if own or settings.rest is None else settings.rest
    max_uses = None if own else settings.max_uses
    if rest or max_uses is not None or settings.fresh_share:
        return Covered(selector, rest, max_uses, settings.fresh_share)
    return selector


def restore(
    like: Selector,
    snapshot: Mapping[str, Any],
    ids: ArrayLike,
    clusters: Clusters | None = None,
) -> Selector:
    """The selector that the snapshot was taken of; `like` is one that was made with the same settings."""
    if isinstance(like, Covered):
        covered = like.around(restore(like.inner, snapshot, ids, clusters))
        covered.take_up(snapshot)
        return covered
    if isinstance(like, PooledStore):
        return type(like).restore(snapshot, ids, clusters)
    kind: Any = type(like)  # of which every one restores itself
    return kind.restore(snapshot, ids)
