"""A deadline for calls to other processes or machines that offer no timeout."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, work: Callable[[], T]) -> T:
    """Returns the result of `work`, or raises its exception.

    The work runs in a daemon thread. After a timeout the thread is abandoned, because a thread cannot be killed; it
    does not keep the process from exiting.

    Raises:
        TimeoutError: the work took longer than `seconds`.
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
        if done.done():  # the work itself raised TimeoutError
            raise
        raise TimeoutError(f"no answer within {seconds:g} s") from None
