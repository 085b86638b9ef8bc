"""An actor that the driver replaces when it is lost, and the record of all such losses.

The driver replaces actors itself instead of leaving it to Ray. So it can also replace an actor that is alive
but silent, as on a frozen node. Each replacement has its own number, its *incarnation*; calls to an earlier
incarnation, and replies from one, are ignored.
"""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ray

from dps_ray.errors import EngineError


class RestartTracker:
    """Counts the losses of actors, reports them, and records how long each replacement took.

    Args:
        tell: is called with a sentence for the user.
        record: is called with a record `{"kind", "name", "why", "seconds"}` when a lost actor is back.
        limit: how many losses in a row of the same actor, without a success in between, are tolerated.
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
        """Count and report a loss.

        Raises:
            EngineError: this actor was lost more than `limit` times in a row.
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

    def record_success(self, kind: str, name: str) -> None:
        """Note that the actor did its work: its next loss is the first in a row again."""
        self._in_a_row.pop(name, None)
        self.back(kind, name)

    def back(self, kind: str, name: str) -> None:
        """Record that the actor is ready for work, if it had been lost."""
        if name in self._lost_at:
            began, why = self._lost_at.pop(name)
            seconds = time.monotonic() - began
            self._tell(f"{name} is back after {seconds:.1f} s")
            self._record({"kind": kind, "name": name, "why": why, "seconds": seconds})

    def metrics(self) -> dict[str, float]:
        """Return `recovery/restarts`, and `recovery/restarts/<kind>` for each kind that was lost."""
        by_kind = {f"recovery/restarts/{kind}": float(n) for kind, n in self._counts.items()}
        return {"recovery/restarts": float(self._counts.total()), **by_kind}


class ManagedActor:
    """One actor of a kind, and its replacements.

    Args:
        make: starts the actor of a given incarnation; the first is 0.
    """

    def __init__(
        self, kind: str, index: int, make: Callable[[int], Any], restarts: RestartTracker
    ) -> None:
        self.kind = kind
        self.index = index
        self.name = f"{kind.replace('_', ' ')} {index}"
        self.incarnation = 0
        self._make = make
        self._restarts = restarts
        self.actor = make(0)

    def replace(self, why: str) -> None:
        """Count the actor as lost, end what may be left of it, and start another in its place.

        Raises:
            EngineError: it was lost too often in a row.
        """
        self._restarts.lost(self.kind, self.name, why)
        self.kill()
        self.incarnation += 1
        self.actor = self._make(self.incarnation)

    def record_success(self) -> None:
        """Note that the actor did its work."""
        self._restarts.record_success(self.kind, self.name)

    def kill(self) -> None:
        """End the actor's process."""
        with suppress(Exception):  # already gone
            ray.kill(self.actor)
