"""Actors of one kind that answer independent calls, and the calls of a batch that they have not answered.

ask(key, call) ──> ManagedActor ── answered ──> look() gives (key, answer)
                       └── died or silent: it is replaced, and the replacement is asked the same
"""

import time
from collections.abc import Callable
from typing import Any

from actors.calls import Lost, answer, wait
from actors.managed_actor import ManagedActor, RestartTracker


class ActorPool:
    """Actors of one kind, as the driver uses them. Each has a method `start`, which loads what its calls need.

    Args:
        kind: for names and metrics, such as "verifier".
        make: starts the actor of this index.
        to_start: seconds in which an actor has to start.
        to_answer: seconds in which it has to give the next answer once it has started.
    """

    def __init__(
        self,
        kind: str,
        count: int,
        make: Callable[[int], Any],
        restarts: RestartTracker,
        *,
        to_start: float,
        to_answer: float,
    ) -> None:
        self.to_start, self.to_answer = to_start, to_answer
        self._starts: dict[int, Any] = {}  # by index, the call to `start`

        def starter(index: int) -> Callable[[int], Any]:
            def start(incarnation: int) -> Any:
                actor = make(index)
                self._starts[index] = actor.start.remote()
                return actor

            return start

        self.members = [ManagedActor(kind, i, starter(i), restarts) for i in range(count)]

    def has_started(self, index: int) -> bool:
        """Return whether an actor has started, or has failed to."""
        return bool(wait([self._starts[index]], 1, 0.0)[0])

    def stop(self) -> None:
        """End every actor."""
        for member in self.members:
            member.kill()


class OpenCalls:
    """The calls of one batch. An actor that dies or is silent for too long is replaced and asked again."""

    def __init__(self, pool: ActorPool) -> None:
        self._pool = pool
        self._calls: dict[Any, Callable[[Any], Any]] = {}  # by key, what calls an actor
        # By index of the actor, the calls that it has not answered, with their keys.
        self._asked: list[dict[Any, Any]] = [{} for _ in pool.members]
        self._silent_since = [0.0 for _ in pool.members]  # while it has calls to answer
        self._started = [False for _ in pool.members]  # whether its silence began after it started

    @property
    def refs(self) -> list[Any]:
        """The Ray calls that are not answered."""
        return [ref for asked in self._asked for ref in asked]

    def ask(self, key: Any, call: Callable[[Any], Any], index: int | None = None) -> None:
        """Make a call.

        Args:
            key: of the answer; no other open call has it.
            call: given an actor, makes the call to it; is used again with a replacement.
            index: of the actor; None: the one with fewest calls to answer.
        """
        if index is None:
            index = min(range(len(self._asked)), key=lambda i: len(self._asked[i]))
        self._calls[key] = call
        self._ask(index, key)

    def answered(self, seconds: float = 0.0) -> list[tuple[Any, Any]]:
        """Return the answers that came since the last call, with their keys, waiting at most so long for one.

        Raises:
            EngineError: an actor was lost too often.
            Exception: what a call raised.
        """
        refs = self.refs
        if not refs:
            return []
        if seconds:
            wait(refs, 1, seconds)
        done = set(wait(refs, len(refs), 0.0)[0])
        found = []
        for index, asked in enumerate(self._asked):
            for ref in [ref for ref in asked if ref in done]:
                each = answer(ref)
                if isinstance(each, Lost):
                    self._replace(index, each.why)
                    break
                key = asked.pop(ref)
                del self._calls[key]
                found.append((key, each))
                self._silent_since[index] = time.monotonic()
                self._pool.members[index].record_success()
        return found

    def look(self, seconds: float) -> list[tuple[Any, Any]]:
        """Return what `answered` does, and replace actors that were silent for too long."""
        found = self.answered(seconds)
        pool = self._pool
        for index, asked in enumerate(self._asked):
            if asked and not self._started[index] and pool.has_started(index):
                self._started[index], self._silent_since[index] = True, time.monotonic()
            allowed = pool.to_answer if self._started[index] else pool.to_start + pool.to_answer
            if asked and time.monotonic() - self._silent_since[index] > allowed:
                self._replace(index, f"did not answer within {pool.to_answer:.0f} s")
        return found

    def _ask(self, index: int, key: Any) -> None:
        ref = self._calls[key](self._pool.members[index].actor)
        if not self._asked[index]:
            self._silent_since[index] = time.monotonic()
        self._asked[index][ref] = key

    def _replace(self, index: int, why: str) -> None:
        """Replace an actor, and ask its successor all that it had not answered."""
        self._pool.members[index].replace(why)
        self._started[index] = False
        keys, self._asked[index] = list(self._asked[index].values()), {}
        for key in keys:
            self._ask(index, key)
