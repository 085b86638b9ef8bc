"""Waiting for actors, with a deadline and an error that names the actor that did not answer.

The driver always waits through `wait`, which regularly calls a function that may end the wait, such as one that checks
for signals. An exception raised in a signal handler itself would come out of Ray as a SystemError.
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
    """Make every wait call this regularly; an exception that it raises ends the wait."""
    global _interrupt
    _interrupt = check


def wait(calls: Sequence[Any], number: int, timeout: float) -> tuple[list[Any], list[Any]]:
    """Return, like `ray.wait`, the calls that are done and the others, once `number` are done or `timeout` seconds have
    passed."""
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
    """Stands for an answer when the actor died, could not start or was silent for too long."""

    why: str


def outcomes(
    calls: Sequence[Any], timeout: float, read: Callable[[Any], Any] | None = None
) -> list[Any]:
    """Return the answer of each call in their order, or `Lost`. Wait for all, but no longer than `timeout` seconds.

    Args:
        read: returns the answer of a call that is done, or `Lost`; None: `answer`.

    Raises:
        Exception: one that a call itself raised.
    """
    read = read or answer
    late = set(wait(calls, len(calls), timeout)[1]) if calls else set()
    return [
        Lost(f"did not answer within {timeout:.0f} s") if call in late else read(call)
        for call in calls
    ]


def answer(call: Any) -> Any:
    """Return the answer of a call that is done, or `Lost` if its actor is gone: it died, Ray ended it because memory was
    short, or Ray found no place for it.

    Raises:
        Exception: one that the call itself raised.
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


def collect(calls: Sequence[Any], timeout: float, kind: str, task: str) -> list[Any]:
    """Return the answers of calls, one to each actor of a kind, in their order; all or none.

    Once one actor is lost this does not wait for the others, which may be waiting for that actor.

    Args:
        kind, task: for the error: the kind of actor, and what it was asked to do.

    Raises:
        EngineError: an actor died, or gave no answer within `timeout` seconds.
        Exception: one that a call itself raised.
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
                raise EngineError(f"{kind} {index} {found[call].why}, while it was to {task}")
    if waiting:
        late = [index for index, call in enumerate(calls) if call in waiting]
        raise EngineError(f"{kind} {late} did not {task} within {timeout:.0f} s")
    return [found[call] for call in calls]


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _raised(error: Exception) -> str:
    """Return the line of a traceback that names the exception."""
    found = re.findall(r"^[\w.]+(?:Error|Exception|Exit|Interrupt)\b.*", str(error), re.MULTILINE)
    return found[-1] if found else _first_line(error)
