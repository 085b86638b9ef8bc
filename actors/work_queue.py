"""The queue of prompts that rollout engines answer.

      ┌───────────add: the next round of a prompt────────┐
      ▼                                                  │
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
from dps_ray.groups import Group, joined

Key = tuple[int, int, int | None]  # of a request
_Asked = tuple[int, int | None]  # a prompt; or a prompt and the number of an episode


class Deal(NamedTuple):
    """Prompts to give to an engine."""

    engine: int
    requests: list[Request]
    more: bool  # add them to the call that the engine is working on


@dataclass
class _Share:
    """The prompts that an engine has."""

    unanswered: dict[Key, Request]  # by `Request.key`
    takes_more: bool


class WorkQueue:
    """Deals the prompts of one batch to engines, which are known by their index.

    Each engine first gets an even part of the prompts, at most `capacity`, and more when less than three quarters
    of `capacity` are left. The prompts of an engine that fails are dealt again in smaller pieces each time. So a
    prompt that breaks engines is alone in the piece whose failure makes the quarantine set it aside.

    A prompt may come in rounds, one after the other: at most one round of it waits or is with an engine. Or its responses
    are episodes over several turns: each turn is a request of its own, and goes to the engine that has the turns before
    in its prefix cache, as long as that engine serves.

    Args:
        requests: the batch, with the first round of each prompt; those in the quarantine are not dealt.
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
        self._engines, self._capacity = engines, capacity
        self._rounds: dict[int, list[Group]] = {}  # by prompt id, answered
        self._open: set[_Asked] = set()  # with a request that waits or is with an engine
        self._homes: dict[tuple[int, int], int] = {}  # by prompt id and episode, its engine
        self._suspects: set[Key] = set()  # requests that an engine had when it failed
        self._aside: set[int] = set()  # prompts
        self._waiting: deque[Request] = deque()  # prompts that never failed
        self._pieces: deque[list[Request]] = deque()  # those that did, to be tried apart
        self._shares: dict[int, _Share] = {}  # by engine
        self._even = 1  # prompts that an idle engine is dealt, if it takes more later
        self.add(requests)

    @property
    def waiting(self) -> int:
        """Number of prompts that no engine has."""
        return len(self._waiting) + sum(map(len, self._pieces))

    def add(self, requests: Iterable[Request]) -> None:
        """Queue these rounds, of prompts that have no other waiting or with an engine, or turns of episodes."""
        queued = []
        for request in requests:
            asked = _asked(request)
            assert asked not in self._open, f"{request.prompt_id} has a round or turn already"
            if request.prompt_id in self._quarantine:
                self._aside.add(request.prompt_id)
            else:
                self._open.add(asked)
                queued.append(request)
        self._again(queued)
        self._even = max(1, math.ceil(len(self._waiting) / max(self._engines, 1)))

    def deal(self, idle: Iterable[int]) -> list[Deal]:
        """Return what to give to each of these idle engines, and to those at work that run low."""
        deals, idle = [], list(idle)
        serving = {*idle, *(engine for engine, share in self._shares.items() if share.takes_more)}
        for engine in idle:
            if self._pieces:
                deals.append(self._start(engine, self._pieces.popleft(), takes_more=False))
            elif first := self._next(engine, min(self._even, self._capacity), serving):
                deals.append(self._start(engine, first, takes_more=True))
        open_ = {engine: share for engine, share in self._shares.items() if share.takes_more}
        have = sum(len(share.unanswered) for share in open_.values())
        level = math.ceil((have + len(self._waiting)) / max(len(open_), 1))
        for engine, share in sorted(open_.items(), key=_by_size):
            room = self._capacity - len(share.unanswered)
            missing = min(room, level - len(share.unanswered))
            if room <= self._capacity // 4:
                continue
            if more := self._next(engine, missing, serving):
                share.unanswered |= _by_key(more)
                deals.append(Deal(engine, more, more=True))
        return deals

    def answered(self, engine: int, group: Group) -> bool:
        """Keep the round that this engine returned, and return whether it was still expected from it."""
        share = self._shares.get(engine)
        if share is None or group.key not in share.unanswered:
            return False
        del share.unanswered[group.key]
        self._open.discard(_asked(group))  # of a prompt set aside meanwhile it is not there
        if group.turn is None:
            self._rounds.setdefault(group.prompt_id, []).append(group)
        else:
            self._homes[group.prompt_id, group.first] = engine
        return True

    def put_back(self, engine: int) -> None:
        """Deal again what this engine's call left unanswered. That is no failure of the prompts."""
        self._again(self._take_from(engine).values())

    def failed(self, engine: int) -> None:
        """Count a failure of each prompt that this engine has, and deal again those that are not set aside."""
        unanswered = self._take_from(engine).values()
        prompts = dict.fromkeys(request.prompt_id for request in unanswered)  # in their order
        aside = {prompt_id for prompt_id in prompts if self._quarantine.failed(prompt_id)}
        self._aside |= aside
        self._open = {asked for asked in self._open if asked[0] not in aside}
        self._suspects |= {request.key for request in unanswered}
        self._waiting = deque(r for r in self._waiting if r.prompt_id not in aside)
        pieces = ([r for r in piece if r.prompt_id not in aside] for piece in self._pieces)
        self._pieces = deque(filter(None, pieces))
        self._again(request for request in unanswered if request.prompt_id not in aside)

    def groups(self) -> list[Group | None]:
        """Return the group of each prompt in their order, with all its rounds, or None for a prompt that is set aside; once
        all are done."""
        return [
            None if request.prompt_id in self._aside else joined(self._rounds[request.prompt_id])
            for request in self._requests
        ]

    def _start(self, engine: int, requests: list[Request], takes_more: bool) -> Deal:
        self._shares[engine] = _Share(_by_key(requests), takes_more)
        return Deal(engine, requests, more=False)

    def _next(self, engine: int, count: int, serving: set[int]) -> list[Request]:
        """Take out what this engine gets: all further turns of its episodes, and others up to `count`. Further turns wait
        for their engine, if that is one of those that serve."""
        if not self._homes:
            return [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]
        taken, left = list[Request](), deque[Request]()
        for request in self._waiting:
            home = self._homes.get((request.prompt_id, request.first))
            free = home not in serving and len(taken) < count
            (taken if home == engine or free else left).append(request)
        self._waiting = left
        return taken

    def _take_from(self, engine: int) -> dict[Key, Request]:
        share = self._shares.pop(engine, None)
        return {} if share is None else share.unanswered

    def _again(self, requests: Iterable[Request]) -> None:
        """Queue prompts that never failed one by one, and the others in pieces.

        Of s prompts that failed f times in a row, a piece has ceil(s ** ((N - 1 - f) / (N - f))), where N failures set
        a prompt aside. So at the N-th attempt a prompt is alone. A further turn of an episode is a new request: it is
        the turn before that an engine failed on, and that another has answered since.
        """
        by_failures: dict[int, list[Request]] = {}
        for request in requests:
            failures = self._quarantine.failures.get(request.prompt_id, 0)
            if request.turn and request.key not in self._suspects:
                failures = 0
            by_failures.setdefault(failures, []).append(request)
        self._waiting.extend(by_failures.pop(0, ()))
        for failures, group in sorted(by_failures.items()):
            left = self._quarantine.limit - failures
            size = math.ceil(len(group) ** ((left - 1) / left) - 1e-9)
            parts = math.ceil(len(group) / size)
            self._pieces.extend(group[i::parts] for i in range(parts))


def _asked(each: Request | Group) -> _Asked:
    """Return what can have but one request at a time."""
    return each.prompt_id, None if each.turn is None else each.first


def _by_key(requests: Iterable[Request]) -> dict[Key, Request]:
    return {request.key: request for request in requests}


def _by_size(item: tuple[int, _Share]) -> tuple[int, int]:
    """Engines with fewest prompts first; of equal ones, in the order of their index."""
    engine, share = item
    return len(share.unanswered), engine
