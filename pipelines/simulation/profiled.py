"""The offline filter on the simulated learner: it evaluates the start policy on every prompt, and pays for it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dps_ray.beliefs.states import Observation, states_of
from dps_ray.errors import ConfigError
from dps_ray.selection.choice import Selection
from dps_ray.selection.evidence import Evidence
from dps_ray.selection.methods import OfflineFilter


class ProfiledSelector:
    """Selects from prompts 0 to N - 1 those that an evaluation kept; see `Selector`.

    Args:
        prompts: N.
        responses: of the evaluation to each prompt.
    """

    def __init__(self, prompts: int, seed: int, responses: int = 4) -> None:
        self._prompts, self._seed, self._responses = prompts, seed, responses
        self._kept = np.empty(0, dtype=np.int64)
        self._inner = OfflineFilter(self._kept)

    def profile(self, rates: NDArray[np.float64]) -> int:
        """Evaluates the policy with these solve rates, (N,), and returns how many responses that took."""
        rng = np.random.default_rng([self._seed, 5])
        right, scored = (
            rng.binomial(self._responses, rates),
            np.full(self._prompts, self._responses),
        )
        found = Observation(np.arange(self._prompts), states_of(right, scored), right, scored)
        evidence = Evidence(found, np.zeros(self._prompts, np.int32), 1.0)
        self._kept = OfflineFilter.Settings().kept(evidence)
        self._inner = OfflineFilter(self._kept, self._seed)
        return int(scored.sum())

    def __len__(self) -> int:
        return self._prompts

    def select(self, size: int, exclude: ArrayLike | None = None) -> Selection:
        """Returns the next `size` of the kept prompts.

        Raises ConfigError when fewer are left.
        """
        left_out = np.intersect1d([] if exclude is None else exclude, self._kept).astype(np.int64)
        left = len(self._kept) - len(left_out)
        if size > left:
            raise ConfigError(
                f"offline_filter keeps {len(self._kept)} of {self._prompts} prompts, and a step needs {size} of the "
                f"{left} that are left: simulate a larger pool, or a smaller --batch-size"
            )
        return self._inner.select(size, left_out)

    def observe(self, mine: Observation, whole: Observation | None = None) -> None:
        self._inner.observe(mine, whole)

    def times_sampled(self, ids: ArrayLike) -> NDArray[np.int64]:
        """At how many steps each prompt was observed: int64 (n,)."""
        wanted = np.asarray(ids)
        times = np.zeros(len(wanted), dtype=np.int64)
        kept = np.isin(wanted, self._kept)
        times[kept] = self._inner.times_sampled(wanted[kept])
        return times

    def metrics(self) -> dict[str, float]:
        return self._inner.metrics()

    def snapshot(self) -> dict[str, Any]:
        return self._inner.snapshot()

    def load_state(self, snapshot: Mapping[str, Any]) -> None:
        self._inner.load_state(snapshot)
