"""The state of a sampler as a flat dict of arrays, numbers and strings."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dps_ray.errors import CheckpointError
from dps_ray.sampler.pool import Kind, Pool

FORMAT = 1


class Saved(NamedTuple):
    """What a state holds.

    method:    its name
    pool:      without names where there are no kinds
    selector:  the selector's snapshot
    open_step, measures: see `OpenStep` and `Measures`
    sizes:     int64 (2,), the largest take, and the most that was in flight
    in_flight: int64, ids
    """

    method: str
    pool: Pool
    selector: Mapping[str, Any]
    open_step: Mapping[str, NDArray[Any]]
    measures: Mapping[str, NDArray[Any]]
    sizes: NDArray[np.int64]
    in_flight: NDArray[np.int64]

    def state_dict(self) -> dict[str, Any]:
        """Returns this as a state."""
        pool = self.pool
        return {
            "format": FORMAT,
            "method": self.method,
            "kinds": json.dumps(pool.names),
            "pool.ids": pool.ids,
            **({"pool.labels": pool.labels} if pool.names else {}),
            "pool.gone": pool.gone,
            "pool.last": pool.last,
            "sizes": self.sizes,
            "in_flight": self.in_flight,
            **_under("selector", self.selector),
            **_under("open", self.open_step),
            **_under("measures", self.measures),
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "Saved":
        """Returns what a state holds, as `state_dict` gave it or as `numpy.load` read it.

        Raises:
            CheckpointError: it is no state of a sampler, or of a later version.
        """
        try:
            plain = {name: _plain(state[name]) for name in state}
            if plain["format"] != FORMAT:
                raise CheckpointError(
                    f"the state has format {plain['format']}, and this version of dps_ray reads {FORMAT}; update dps_ray"
                )
            names: list[Kind] = json.loads(plain["kinds"])
            ids = plain["pool.ids"]
            labels = plain["pool.labels"] if names else np.zeros(len(ids), np.int32)
            return cls(
                plain["method"],
                Pool(ids, labels, names, plain["pool.gone"], plain["pool.last"]),
                _from("selector", plain),
                _from("open", plain),
                _from("measures", plain),
                plain["sizes"],
                plain["in_flight"],
            )
        except KeyError as error:
            raise CheckpointError(
                f"this is no state of a PromptSampler: it has no {error}; give what `state_dict` returned"
            ) from None

    def check(self, method: str, has_kinds: bool) -> None:
        """Raises CheckpointError unless a sampler of this method, with or without kinds, can go on from this."""
        if self.method != method:
            raise CheckpointError(
                f"the state is of method={self.method!r}, and this sampler has {method!r}; make it with the same"
            )
        if bool(self.pool.names) != has_kinds:
            raise CheckpointError(
                f"the state was saved {'with' if self.pool.names else 'without'} kinds, and this sampler was made "
                f"{'with' if has_kinds else 'without'}; keep them as they were from the start"
            )


def _plain(value: Any) -> Any:
    """A value as it was before it was written as an array."""
    return value.item() if isinstance(value, (np.ndarray, np.generic)) and not value.ndim else value


def _under(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}.{name}": value for name, value in values.items()}


def _from(prefix: str, state: Mapping[str, Any]) -> dict[str, Any]:
    start = f"{prefix}."
    return {name[len(start) :]: value for name, value in state.items() if name.startswith(start)}
