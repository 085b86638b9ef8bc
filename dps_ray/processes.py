"""Several processes that call one function, for work that holds Python's lock.

They are not forked, since threads of this process may hold locks. They are not started by multiprocessing either, which
would run the main module of the user's own program once more in each of them.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from dps_ray.errors import ResourceError

T = TypeVar("T")
R = TypeVar("R")

MOST = 16  # processes or threads that read or tokenize prompts
_PR_SET_PDEATHSIG = 1


def cores() -> int:
    """The cores that this process may use, at most `MOST`."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(MOST, usable or 1)


class Processes(Generic[T, R]):
    """Processes that call a function. Use `close` to end them, whatever they are doing.

    Args:
        do: the function, which can be pickled; it is sent to each process once.
        count: the number of processes.
        doing: says for an item what a process does with it, as in "read train.parquet", for the error.
    """

    def __init__(self, do: Callable[[T], R], count: int, doing: Callable[[T], str]) -> None:
        self._doing = doing
        self._processes = [Process(do) for _ in range(count)]
        self._idle: SimpleQueue[Process] = SimpleQueue()
        for process in self._processes:
            self._idle.put(process)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="processes")

    def map(self, items: Iterable[T]) -> Iterator[R]:
        """Yields the results for all items, in order. A few items are taken ahead.

        Raises:
            ResourceError: a process died.
            Exception: what the function raised.
        """
        coming: deque[Future[R]] = deque()
        for item in items:
            coming.append(self._threads.submit(self._call, item))
            if len(coming) > 2 * len(self._processes):
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()

    def close(self) -> None:
        for process in self._processes:
            process.kill()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _call(self, item: T) -> R:
        process = self._idle.get()
        try:
            done, answer = process.call(item)
        except (EOFError, OSError) as error:
            raise ResourceError(
                f"a process that {self._doing(item)} ended with exit code {process.popen.wait()}; it may have run out "
                "of memory"
            ) from error
        finally:
            self._idle.put(process)
        if not done:
            raise answer
        result: R = answer
        return result


class Process:
    """One process."""

    def __init__(self, do: Callable[[Any], Any]) -> None:
        self._connection, theirs = Pipe()
        with theirs:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "dps_ray.processes", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl+C is for this process, which ends the others
            )
        with suppress(OSError):  # it has died, which the first call finds
            self._connection.send(do)

    def call(self, item: Any, seconds: float | None = None) -> tuple[bool, Any]:
        """Returns whether the function returned, and what it returned or raised.

        Raises:
            EOFError, OSError: the process has ended.
            TimeoutError: there is no answer after so many seconds.
        """
        self._connection.send(item)
        if not self._connection.poll(seconds):
            raise TimeoutError
        answer: tuple[bool, Any] = self._connection.recv()
        return answer

    def kill(self) -> None:
        """Ends the process and what it started."""
        with suppress(ProcessLookupError):  # none of its group is left
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()
        self._connection.close()


def die_with_parent() -> None:
    """Has this process end by SIGKILL once the thread that started it has ended, whatever it is doing (on Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(connection: Connection) -> None:
    """Calls the function that comes first with everything that comes after it, and sends back what becomes of it."""
    with suppress(EOFError, OSError):  # the process that asked has ended
        do = connection.recv()
        while True:
            item = connection.recv()
            try:
                answer = True, do(item)
            except Exception as error:
                answer = False, error
            connection.send(answer)


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])))
