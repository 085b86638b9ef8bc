"""An actor that can be lost and replaced, and the account of what was.

The driver replaces actors itself and does not leave it to Ray: it may then also replace one that is alive
and silent, as on a frozen node, and every replacement has a number of its own, its *incarnation*, without
which neither its calls nor its replies are taken.
"""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ray

from dps_ray.errors import EngineError


class Recoveries:
    """What was lost and came back: counted, told, and kept as records.

    Args:
        tell: given a sentence for a person.
        record: given a record `{"kind", "name", "why", "seconds"}` when something is back.
        limit: losses in a row, without a success of the same member in between, that are borne.
    """

    def __init__(
        self,
        tell: Callable[[str], None] = lambda message: None,
        record: Callable[[dict[str, Any]], None] = lambda record: None,
        limit: int = 3,
    ) -> None:
        self._tell = tell
        self._record = record
        self._limit = limit
        self._counts: Counter[str] = Counter()
        self._in_a_row: Counter[str] = Counter()
        self._lost_at: dict[str, tuple[float, str]] = {}

    def lost(self, kind: str, name: str, why: str) -> None:
        """
        Raises:
            EngineError: that was once too often.
        """
        self._counts[kind] += 1
        self._in_a_row[name] += 1
        self._lost_at.setdefault(name, (time.monotonic(), why))
        if self._in_a_row[name] > self._limit:
            raise EngineError(
                f"{name} was lost {self._in_a_row[name]} times in a row and is given up "
                f"(recovery.restarts={self._limit}); the last time it {why}"
            )
        self._tell(f"{name} {why}; it is being replaced")

    def well(self, kind: str, name: str) -> None:
        """It did its work: losses are no longer in a row."""
        self._in_a_row.pop(name, None)
        self.back(kind, name)

    def back(self, kind: str, name: str) -> None:
        """It is ready for work, if it had been lost."""
        if name in self._lost_at:
            began, why = self._lost_at.pop(name)
            seconds = time.monotonic() - began
            self._tell(f"{name} is back after {seconds:.1f} s")
            self._record({"kind": kind, "name": name, "why": why, "seconds": seconds})

    def metrics(self) -> dict[str, float]:
        """`recovery/restarts`, and `recovery/restarts/<kind>` of those kinds that were lost."""
        by_kind = {f"recovery/restarts/{kind}": float(n) for kind, n in self._counts.items()}
        return {"recovery/restarts": float(self._counts.total()), **by_kind}


class Member:
    """One actor of a kind.

    Args:
        make: starts the actor of a given incarnation, 0 the first.
    """

    def __init__(
        self, kind: str, index: int, make: Callable[[int], Any], recoveries: Recoveries
    ) -> None:
        self.kind = kind
        self.index = index
        self.name = f"{kind.replace('_', ' ')} {index}"
        self.incarnation = 0
        self._make = make
        self._recoveries = recoveries
        self.actor = make(0)

    def replace(self, why: str) -> None:
        """Count it as lost, end what may be left of it, and start another in its place.

        Raises:
            EngineError: it was lost too often.
        """
        self._recoveries.lost(self.kind, self.name, why)
        self.kill()
        self.incarnation += 1
        self.actor = self._make(self.incarnation)

    def well(self) -> None:
        """It did its work."""
        self._recoveries.well(self.kind, self.name)

    def kill(self) -> None:
        with suppress(Exception):  # already gone
            ray.kill(self.actor)
