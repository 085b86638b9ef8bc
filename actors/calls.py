"""Waiting for actors, with a deadline that names who did not answer.

All waiting of the driver goes through `wait`, which looks up now and then and lets whoever handles signals
have a say: an exception raised in a signal handler while Ray waits comes out of it as a SystemError.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from dps_ray.errors import EngineError

_LOOK_UP = 0.2  # seconds

_interrupt: Callable[[], None] | None = None


def interrupted_by(check: Callable[[], None] | None) -> None:
    """Have every wait call this now and then; what it raises ends the wait."""
    global _interrupt
    _interrupt = check


def wait(calls: Sequence[Any], number: int, timeout: float) -> tuple[list[Any], list[Any]]:
    """`ray.wait`: the calls that are done once `number` are, or `timeout` seconds have passed, and the others."""
    deadline = time.monotonic() + timeout
    while True:
        if _interrupt is not None:
            _interrupt()
        left = max(0.0, deadline - time.monotonic())
        done, others = ray.wait(list(calls), num_returns=number, timeout=min(left, _LOOK_UP))
        if len(done) >= number or left == 0:
            return done, others


@dataclass(frozen=True)
class Lost:
    """What there is instead of an answer, when the actor died, could not start or was silent for too long."""

    why: str


def outcomes(
    calls: Sequence[Any], timeout: float, read: Callable[[Any], Any] | None = None
) -> list[Any]:
    """The answer of each call in their order, or `Lost`. Waits for all, but no longer than `timeout` seconds.

    Args:
        read: of a call that is done, its answer or `Lost`; None: `answer`.

    Raises:
        Exception: what a call itself raised.
    """
    read = read or answer
    late = set(wait(calls, len(calls), timeout)[1]) if calls else set()
    return [
        Lost(f"did not answer within {timeout:.0f} s") if call in late else read(call)
        for call in calls
    ]


def answer(call: Any) -> Any:
    """What a call that is done gave, or `Lost` if its actor is gone: it died, or Ray ended it for want of
    memory, or did not find a place for it.

    Raises:
        Exception: what the call itself raised.
    """
    try:
        return ray.get(call)
    except ray.exceptions.RayTaskError as error:  # what its own code raised
        cause = error.cause
        raise (cause if isinstance(cause, Exception) else error) from error
    except ray.exceptions.RayActorError as error:
        if error.actor_init_failed:
            return Lost(f"failed to start: {_raised(error)}")
        return Lost(f"died: {_first_line(error)}")
    except ray.exceptions.RayError as error:
        return Lost(f"was lost: {_first_line(error)}")


def collect(calls: Sequence[Any], timeout: float, who: str, what: str) -> list[Any]:
    """The answers of calls, one to each actor of a kind, in their order; all or none.

    Does not wait for the others once one is lost: they may wait for it themselves.

    Args:
        who, what: for the error: kind of actor, and what it was to do.

    Raises:
        EngineError: an actor died, or gave no answer within `timeout` seconds.
        Exception: what a call itself raised.
    """
    deadline = time.monotonic() + timeout
    waiting = list(calls)
    found: dict[Any, Any] = {}
    while waiting and (left := deadline - time.monotonic()) > 0:
        done, waiting = wait(waiting, 1, left)
        for call in done:
            found[call] = answer(call)
            if isinstance(found[call], Lost):
                index = list(calls).index(call)
                raise EngineError(f"{who} {index} {found[call].why}, while it was to {what}")
    if waiting:
        late = [index for index, call in enumerate(calls) if call in waiting]
        raise EngineError(f"{who} {late} did not {what} within {timeout:.0f} s")
    return [found[call] for call in calls]


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _raised(error: Exception) -> str:
    """The line of a traceback that says what was raised."""
    found = re.findall(r"^[\w.]+(?:Error|Exception|Exit|Interrupt)\b.*", str(error), re.MULTILINE)
    return found[-1] if found else _first_line(error)
