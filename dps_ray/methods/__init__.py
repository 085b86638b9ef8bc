"""Selection methods to compare DPS with, all behind the one protocol (`dps_ray.selector.Selector`).

| class | what it does | learns from |
|---|---|---|
| `HistoryResampling` (SRPO) | uniform by epochs, without the prompts solved when last seen | states |
| `MoPPS` | draws each success rate from its Beta, takes those nearest 0.5 | counts |
| `MaPP` | samples by P(the group is mixed) under the Beta; `greedy`: the largest | counts |
| `GRESO` | uniform by epochs, skips by the streak of groups without variance | states, totals |
| `VarianceEMA` (control) | largest running mean of 4p(1 - p) | counts |
| `Recency` (control) | last partial first, then never seen, then the oldest | states |
| `RateHMM` (`dps` with `selector.observation=counts`) | largest P(the group is mixed), the rate a moving one | counts of all shards |
| `RewardMoments` (likewise, `=rewards`) | largest P(the rewards of the group vary) | scores |
| `Oracle` (simulation) | largest true P(the group is mixed) | `set_rates` |

`dps_ray.UniformSelector` and `dps_ray.BeliefStore` (DPS) are the two others; Dynamic Sampling is uniform
selection with the loop's group filter. All give the same batches for any number of shards.
"""

from collections.abc import Callable

from numpy.typing import ArrayLike

from dps_ray.beliefs import BeliefStore
from dps_ray.config import SelectorSettings, StateSettings
from dps_ray.methods.greso import GRESO
from dps_ray.methods.history_resampling import HistoryResampling
from dps_ray.methods.mapp import MaPP
from dps_ray.methods.mopps import MoPPS
from dps_ray.methods.oracle import Oracle
from dps_ray.methods.rate_hmm import RateHMM
from dps_ray.methods.recency import Recency
from dps_ray.methods.reward_moments import RewardMoments
from dps_ray.methods.variance_ema import VarianceEMA
from dps_ray.selector import Selector
from dps_ray.uniform import UniformSelector

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
) -> Selector:
    """The selector that a configuration's `method` names.

    Args:
        ids: int64 (n,), the prompts of this shard.
        pool: prompts over all shards.
        states: what makes a group partial, for a method that predicts it from rewards.
        group_size: k, responses to a prompt.

    Raises:
        KeyError: there is no method of this name.
    """

    def by_states() -> Selector:
        return BeliefStore(
            ids,
            decay=settings.decay,
            prior=settings.prior,
            entropy_weight=settings.entropy_weight,
            seed=seed,
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

    makers: dict[str, Callable[[], Selector]] = {
        "dps": {"states": by_states, "counts": by_counts, "rewards": by_rewards}[
            settings.observation
        ],
        "uniform": lambda: UniformSelector(ids, seed),
        "history_resampling": lambda: HistoryResampling(ids, seed),
        "mopps": lambda: MoPPS(ids, seed, decay=settings.beta_decay, group_size=group_size),
        "mapp": lambda: MaPP(ids, seed, decay=settings.beta_decay, group_size=group_size),
        "greso": lambda: GRESO(ids, seed, pool=pool),
        "variance_ema": lambda: VarianceEMA(ids, seed, keep=settings.variance_decay),
        "recency": lambda: Recency(ids, seed),
        "oracle": lambda: Oracle(ids, group_size, seed),
    }
    return makers[name]()
