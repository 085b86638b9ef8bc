"""What a sampler counts of its steps, and what it says of them."""

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dps_ray.beliefs.states import PARTIAL, Observation

WINDOW = 20  # steps whose first visits the estimate of uniform sampling is made from
LEAST_VISITS = 30  # with fewer first visits there is no estimate
LEAST_SHARE = 0.5  # of the pool, in the kinds that were visited

_COUNTERS = (
    "steps",
    "groups",
    "partial",
    "foretold",  # groups for which something was predicted
    "foretold_partial",
    "foretold_sum",  # of P(partial)
    "squared_error",
    "distinct",
    "failed",
    "released",
    "late",
    "retaken",
)


class Measures:
    """Counters, over the run so far and over the last step."""

    def __init__(self) -> None:
        self.total = dict.fromkeys(_COUNTERS, 0.0)
        self.last: dict[str, float] = {}
        # By step, of prompts drawn uniformly within their kind: kinds, and which prompts were partial.
        self._drawn: deque[tuple[NDArray[np.int32], NDArray[np.bool_]]] = deque(maxlen=WINDOW)

    def count(self, name: str, by: int = 1) -> None:
        self.total[name] += by

    def note(
        self,
        observation: Observation,
        predicted: NDArray[np.float64],
        first: NDArray[np.bool_],
        drawn: NDArray[np.bool_],
        kinds: NDArray[np.int32],
    ) -> None:
        """Takes in a step that has closed.

        predicted: float64 (n,), P(partial) when each was taken; NaN where nothing was predicted.
        first: (n,), prompts never observed before.
        drawn: (n,), prompts that were drawn uniformly within their kind.
        kinds: int32 (n,).
        """
        partial = np.asarray(observation.states) == PARTIAL
        told = ~np.isnan(predicted)
        error = (predicted - partial)[told]
        self.last = {
            "steps": 1.0,
            "groups": float(len(partial)),
            "partial": float(partial.sum()),
            "foretold": float(told.sum()),
            "foretold_partial": float(partial[told].sum()),
            "foretold_sum": float(predicted[told].sum()),
            "squared_error": float((error**2).sum()),
            "distinct": float(first.sum()),
        }
        for name, value in self.last.items():
            self.total[name] += value
        self._drawn.append((kinds[drawn].astype(np.int32), partial[drawn]))

    def metrics(self, sizes: NDArray[np.int64]) -> dict[str, float]:
        """See `PromptSampler.metrics`. sizes: int64 (C,), prompts of the pool by kind."""
        found = {name: self.total[name] for name in ("steps", "groups", "distinct")}
        found |= {name: self.total[name] for name in ("failed", "released", "late", "retaken")}
        found["coverage"] = self.total["distinct"] / float(sizes.sum())
        for suffix, of in (("", self.last), ("_mean", self.total)):
            if of.get("groups"):
                found[f"effective_ratio{suffix}"] = of["partial"] / of["groups"]
            if of.get("foretold"):
                found[f"predicted_ratio{suffix}"] = of["foretold_sum"] / of["foretold"]
                found[f"foretold_ratio{suffix}"] = of["foretold_partial"] / of["foretold"]
                found[f"brier{suffix}"] = of["squared_error"] / of["foretold"]
        uniform = self._uniform(sizes)
        return found if uniform is None else {**found, "uniform_ratio": uniform}

    def _uniform(self, sizes: NDArray[np.int64]) -> float | None:
        """The share of partial groups that uniform sampling would have found, by the Hajek estimator: each visit stands
        for as many prompts as its kind has, divided by the visits to it."""
        if sum(len(kinds) for kinds, _ in self._drawn) < LEAST_VISITS:
            return None
        kinds = np.concatenate([kinds for kinds, _ in self._drawn])
        partial = np.concatenate([partial for _, partial in self._drawn])
        visits = np.bincount(kinds, minlength=len(sizes))
        hits = np.bincount(kinds, weights=partial, minlength=len(sizes))
        seen = visits > 0
        stands_for = sizes[seen].sum()
        if stands_for < LEAST_SHARE * sizes.sum():
            return None
        return float((sizes[seen] * hits[seen] / visits[seen]).sum() / stands_for)

    # --- keeping ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Returns the counters as arrays."""
        parts = list(self._drawn)
        return {
            "total": np.array([self.total[name] for name in _COUNTERS]),
            "last": np.array([self.last.get(name, np.nan) for name in _COUNTERS]),
            "drawn_sizes": np.array([len(kinds) for kinds, _ in parts], dtype=np.int64),
            "drawn_kinds": np.concatenate([np.empty(0, np.int32), *(kinds for kinds, _ in parts)]),
            "drawn_partial": np.concatenate([np.empty(0, bool), *(each for _, each in parts)]),
        }

    @classmethod
    def restored(cls, state: Mapping[str, NDArray[Any]]) -> "Measures":
        measures = cls()
        measures.total = dict(zip(_COUNTERS, state["total"].tolist(), strict=True))
        last = dict(zip(_COUNTERS, state["last"].tolist(), strict=True))
        measures.last = {name: value for name, value in last.items() if not np.isnan(value)}
        start = 0
        for size in state["drawn_sizes"].tolist():
            end = start + size
            measures._drawn.append(
                (state["drawn_kinds"][start:end], state["drawn_partial"][start:end])
            )
            start = end
        return measures
