"""The queue of prompts that rollout engines answer.

    waiting ──deal──> share of an engine ──answered──> groups
       ▲                     │
       ├──────put_back───────┤ its call ended and left these out
       └───────failed────────┘ it died or was silent; they come back in smaller pieces

Pure: no actor is called and no clock is read here. The caller reports what happened to an engine, and does what
`deal` says.
"""

import math
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from actors.health import Quarantine
from actors.requests import Request
from dps_ray.groups import Group


class Deal(NamedTuple):
    """Prompts to give to an engine."""

    engine: int
    requests: list[Request]
    more: bool  # add them to the call that the engine is working on


@dataclass
class _Share:
    """The prompts that an engine has."""

    unanswered: dict[int, Request]  # by prompt id
    takes_more: bool


class WorkQueue:
    """Deals the prompts of one batch to engines, which are known by their index.

    Each engine first gets an even part of the prompts, at most `capacity`, and more when less than three quarters
    of `capacity` are left. The prompts of an engine that fails are dealt again in smaller pieces each time. So a
    prompt that breaks engines is alone in the piece whose failure makes the quarantine set it aside.

    Args:
        requests: the batch; those in the quarantine are not dealt.
        quarantine: is told of the prompts whose engine failed.
        engines: number of engines that share the prompts at first.
        capacity: most prompts that an engine has at a time.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        quarantine: Quarantine,
        *,
        engines: int = 1,
        capacity: int = sys.maxsize,
    ) -> None:
        self._requests = requests
        self._quarantine = quarantine
        self._capacity = capacity
        self._groups: dict[int, Group | None] = {
            request.prompt_id: None for request in requests if request.prompt_id in quarantine
        }
        self._waiting: deque[Request] = deque()  # prompts that never failed
        self._pieces: deque[list[Request]] = deque()  # those that did, to be tried apart
        self._shares: dict[int, _Share] = {}  # by engine
        self._again(request for request in requests if request.prompt_id not in self._groups)
        self._even = max(1, math.ceil(len(self._waiting) / max(engines, 1)))

    @property
    def waiting(self) -> int:
        """Number of prompts that no engine has."""
        return len(self._waiting) + sum(map(len, self._pieces))

    def deal(self, idle: Iterable[int]) -> list[Deal]:
        """Return what to give to each of these idle engines, and to those at work that run low."""
        deals = []
        for engine in idle:
            if self._pieces:
                deals.append(self._start(engine, self._pieces.popleft(), takes_more=False))
            elif self._waiting:
                first = self._next(min(self._even, self._capacity))
                deals.append(self._start(engine, first, takes_more=True))
        for engine, share in sorted(self._shares.items(), key=_by_size):
            room = self._capacity - len(share.unanswered)
            if share.takes_more and self._waiting and room > self._capacity // 4:
                more = self._next(room)
                share.unanswered |= _by_id(more)
                deals.append(Deal(engine, more, more=True))
        return deals

    def answered(self, engine: int, group: Group) -> bool:
        """Keep the group that this engine returned, and return whether it was still expected from it."""
        share = self._shares.get(engine)
        if share is None or share.unanswered.pop(group.prompt_id, None) is None:
            return False
        self._groups[group.prompt_id] = group
        return True

    def put_back(self, engine: int) -> None:
        """Deal again what this engine's call left unanswered. That is no failure of the prompts."""
        self._again(self._take_from(engine).values())

    def failed(self, engine: int) -> None:
        """Count a failure of each prompt that this engine has, and deal again those that are not set aside."""
        unanswered = self._take_from(engine)
        aside = {prompt_id for prompt_id in unanswered if self._quarantine.failed(prompt_id)}
        self._groups |= dict.fromkeys(aside)
        self._again(r for prompt_id, r in unanswered.items() if prompt_id not in aside)

    def groups(self) -> list[Group | None]:
        """Return the group of each request in their order, None for a prompt that is set aside; once all are done."""
        return [self._groups[request.prompt_id] for request in self._requests]

    def _start(self, engine: int, requests: list[Request], takes_more: bool) -> Deal:
        self._shares[engine] = _Share(_by_id(requests), takes_more)
        return Deal(engine, requests, more=False)

    def _next(self, count: int) -> list[Request]:
        return [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]

    def _take_from(self, engine: int) -> dict[int, Request]:
        share = self._shares.pop(engine, None)
        return {} if share is None else share.unanswered

    def _again(self, requests: Iterable[Request]) -> None:
        """Queue prompts that never failed one by one, and the others in pieces.

        Of s prompts that failed f times in a row, a piece has ceil(s ** ((N - 1 - f) / (N - f))), where N failures set
        a prompt aside. So at the N-th attempt a prompt is alone.
        """
        by_failures: dict[int, list[Request]] = {}
        for request in requests:
            failures = self._quarantine.failures.get(request.prompt_id, 0)
            by_failures.setdefault(failures, []).append(request)
        self._waiting.extend(by_failures.pop(0, ()))
        for failures, group in sorted(by_failures.items()):
            left = self._quarantine.limit - failures
            size = math.ceil(len(group) ** ((left - 1) / left) - 1e-9)
            parts = math.ceil(len(group) / size)
            self._pieces.extend(group[i::parts] for i in range(parts))


def _by_id(requests: Iterable[Request]) -> dict[int, Request]:
    return {request.prompt_id: request for request in requests}


def _by_size(item: tuple[int, _Share]) -> tuple[int, int]:
    """Engines with fewest prompts first; of equal ones, in the order of their index."""
    engine, share = item
    return len(share.unanswered), engine
