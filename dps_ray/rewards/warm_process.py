"""A process that has a reward function loaded, and the workers that it forks to score with it.

    WarmProcess ── fork; import these modules; how did it end? ──> python -m dps_ray.rewards.sandbox_child
         Worker ── trial call; group ───────────────────────────────> └─ its fork, which may be killed

A worker that is killed takes no imports with it: the next is forked in milliseconds. A process with threads cannot
be forked safely, since the fork would have their locks and not the threads. One whose function starts threads when it
is loaded is a worker itself, and is started again when it was killed.
"""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from typing import Any, NamedTuple

from dps_ray.errors import RewardError
from dps_ray.prompts.dataset import Prompt
from dps_ray.rewards.settings import VerifierSettings


class Fork(NamedTuple):
    """Asks for a worker; a file for its connection follows. The answer is its process id."""


class BringIn(NamedTuple):
    """Asks to import modules. The answer is what that took, a `Spent`."""

    modules: list[str]


class Ended(NamedTuple):
    """Asks for the exit code of the worker. Waits for its end for so many seconds; then the answer is None."""

    patience: float | None


class TrialCall(NamedTuple):
    """Asks a worker for a call outside all limits on time. The answer is a `Tried`; None when memory ran out."""

    prompt: Prompt


class Responses(NamedTuple):
    """Asks a worker to score the responses to one prompt. The answers come one by one, up to the first that fails:
    score and accuracy, or a RewardError; None when memory ran out."""

    prompt: Prompt
    texts: list[str]


class Spent(NamedTuple):
    """Time by the clock and of the processor."""

    seconds: float
    cpu_seconds: float


class Tried(NamedTuple):
    """What a trial call took, and which modules it imported, in their order."""

    spent: Spent
    modules: list[str]


class WarmProcess:
    """Make it in a thread that lasts: the process ends with the thread that started it, and workers with it.

    Args:
        reward: as `dps_ray.rewards.functions.load_reward` takes it.
        limits: of workers, for one response.
        seconds: that each answer may take: loading the function, importing modules.

    Raises:
        RewardError: the function cannot be loaded.
    """

    def __init__(self, reward: str | None, limits: VerifierSettings, seconds: float) -> None:
        self._limits = limits
        self._seconds = seconds
        self._control, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dps_ray.rewards.sandbox_child", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                env={
                    "OMP_NUM_THREADS": "1",  # more would count against the processor time of a response
                    "MALLOC_ARENA_MAX": "1",  # others reserve address space, with which memory is measured
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                },
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # and so a process group, which ends as a whole
            )
        error: RewardError | None
        try:
            self._control.send((reward, limits.cpu_seconds, limits.memory_gib))
            error = self._answer(seconds)
        except TimeoutError:
            error = RewardError(
                f"the reward function {reward} was not loaded within {seconds:g} s (resources.wait)"
            )
        except (EOFError, OSError):
            how = how_it_ended(self._wait(limits.seconds), limits)
            error = RewardError(f"the reward function {reward} {how} while it was loaded")
        if error is not None:
            self.close()
            raise error

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def worker(self) -> "Worker":
        """A new one, in place of the last, which has ended.

        Raises:
            RewardError: this process has ended meanwhile.
        """
        ours, theirs = Pipe()
        try:
            with theirs:
                self._control.send(Fork())
                send_handle(self._control, theirs.fileno(), self.pid)
                pid = self._answer(self._seconds)
        except (EOFError, OSError) as error:
            ours.close()
            raise self._lost(error) from error
        return Worker(pid, ours, self)

    def bring_in(self, modules: list[str]) -> Spent:
        """Import modules, for all workers to come.

        Raises:
            RewardError: that takes longer than `seconds`, or ends the process.
        """
        try:
            self._control.send(BringIn(modules))
            spent: Spent = self._answer(self._seconds)
        except (EOFError, OSError) as error:
            raise self._lost(error) from error
        return spent

    def exit_code_of(self, pid: int, patience: float | None) -> int | None:
        """Of its worker, or of itself; None if that has not ended within `patience` seconds."""
        if pid == self.pid:
            return self._wait(patience)
        try:
            self._control.send(Ended(patience))
            code: int | None = self._answer(None)
        except (EOFError, OSError):  # this process was killed, and so was its worker
            self.close()
            return -signal.SIGKILL
        return code

    def close(self) -> None:
        """End it and what it started."""
        with suppress(ProcessLookupError):  # none of the group is left
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._control.close()

    def _lost(self, error: Exception) -> RewardError:
        """For when there was none of its answers."""
        if isinstance(error, TimeoutError):
            how = f"gave no answer within {self._seconds:g} s (resources.wait)"
        else:
            how = how_it_ended(self._wait(self._limits.seconds), self._limits)
        self.close()
        return RewardError(f"the process that has the reward function loaded {how}")

    def _answer(self, seconds: float | None) -> Any:
        if not self._control.poll(seconds):
            raise TimeoutError
        return self._control.recv()

    def _wait(self, patience: float | None) -> int | None:
        try:
            return self._process.wait(patience)
        except subprocess.TimeoutExpired:
            return None


class Worker:
    """A process that scores responses until one is too much for it.

    pid:      of the process, and of its group
    in_place: the warm process itself, which has threads
    tried:    data sources of the trial calls it has made
    """

    def __init__(self, pid: int, connection: Connection, warm: WarmProcess) -> None:
        self.pid = pid
        self.in_place = pid == warm.pid
        self.tried: set[str] = set()
        self._connection = connection
        self._warm = warm
        self._exit_code: int | None = None

    def ask(self, request: TrialCall | Responses) -> None:
        """
        Raises:
            OSError: it has ended.
        """
        self._connection.send(request)

    def answer(self, seconds: float) -> Any:
        """
        Raises:
            TimeoutError: there is none after so many seconds.
            EOFError, OSError: it has ended.
        """
        if not self._connection.poll(seconds):
            raise TimeoutError
        return self._connection.recv()

    def poll(self) -> int | None:
        """The exit code, if it has ended."""
        return self.wait(0)

    def wait(self, patience: float | None) -> int | None:
        """The exit code, if it ends within `patience` seconds."""
        if self._exit_code is None:
            self._exit_code = self._warm.exit_code_of(self.pid, patience)
        return self._exit_code

    def end(self) -> None:
        """End it and what it started."""
        with suppress(ProcessLookupError):  # none of the group is left
            os.killpg(self.pid, signal.SIGKILL)
        self.wait(None)
        self._connection.close()


def how_it_ended(exit_code: int | None, limits: VerifierSettings) -> str:
    """The exit code of a process that gives no more answers, in words."""
    if exit_code is None:
        return "closed the files of its process"
    if exit_code == -signal.SIGXCPU:
        limit = limits.cpu_seconds
        return f"took more than {limit:g} s of processor time (verifier.cpu_seconds)"
    if exit_code < 0:
        return f"was ended by signal {-exit_code} ({signal.strsignal(-exit_code)})"
    return f"ended its process with status {exit_code}"
