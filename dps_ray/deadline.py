"""A deadline for calls that leave the process and have none of their own."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, work: Callable[[], T]) -> T:
    """What the work returns, or raises.

    It is done in a thread, which is left behind when the time is over: nothing can end it, and it does not keep
    the process from ending.

    Raises:
        TimeoutError: it took longer.
    """
    done: Future[T] = Future()

    def do() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=do, name="within a deadline", daemon=True).start()
    try:
        return done.result(seconds)
    except TimeoutError:
        if done.done():  # the work's own
            raise
        raise TimeoutError(f"no answer within {seconds:g} s") from None
