"""The processes of a `Sandbox`: one that has a reward function loaded, and those that it forks to score with it.

The first does not call the function as long as it can be forked. It holds nothing but what was imported, so no
connection, event loop or counter of a call is shared by two workers. Standard output is the parent's; answers go
through the file whose number is given.
"""

import importlib
import math
import os
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from multiprocessing.reduction import recv_handle
from pathlib import Path

from dps_ray.errors import RewardError
from dps_ray.processes import die_with_parent
from dps_ray.prompts.dataset import Prompt
from dps_ray.rewards import sandboxed
from dps_ray.rewards.functions import RewardFunction, load_reward, score_response, trial_text
from dps_ray.rewards.warm_process import BringIn, Fork, Responses, Spent, TrialCall, Tried

# Takes care of forks itself, and comes with pyarrow.
_HARMLESS_THREAD = "jemalloc_bg_thd"
# What an import raises besides MemoryError when an allocation fails: of a folder's listing, a library, CPython's own.
_OF_MEMORY_TOO = (OSError, ImportError, SystemError)
_ALLOCATION = 2**21  # bytes that an import may ask for at once: CPython takes memory by MiB

Work = Callable[[Connection], None]


def main(file: int) -> None:
    die_with_parent()
    os.set_inheritable(file, False)
    control = Connection(file)
    # A process that is forked must not answer in our place, nor hide our end from the parent.
    os.register_at_fork(after_in_child=control.close)
    sandboxed.enter()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    spec, cpu_seconds, memory_gib = control.recv()
    try:
        reward = load_reward(spec)
    except RewardError as error:
        control.send(error)
        return
    control.send(None)
    with suppress(EOFError):  # the parent has no more
        _obey(control, partial(_serve, reward, cpu_seconds, int(memory_gib * 2**30)))


# --- the warm process -----------------------------------------------------------------------------


def _obey(control: Connection, work: Work) -> None:
    """Answers the requests of a `WarmProcess`, as their classes say."""
    worker: ForkProcess | None = None
    while True:
        request = control.recv()
        if isinstance(request, BringIn):
            control.send(_bring_in(request.modules))
        elif isinstance(request, Fork):
            connection = Connection(recv_handle(control))
            if _has_threads():
                control.send(os.getpid())
                control.close()
                return work(connection)
            worker = get_context("fork").Process(
                target=_in_a_fork, args=(os.getpid(), work, connection)
            )
            worker.start()
            connection.close()
            assert worker.pid is not None
            with suppress(ProcessLookupError):  # it was killed already
                os.setpgid(worker.pid, worker.pid)  # so that it can be ended with what it starts
            control.send(worker.pid)
        else:
            assert worker is not None
            control.send(_exit_code(worker, request.patience))


def _bring_in(modules: list[str]) -> Spent:
    began, began_cpu = time.monotonic(), time.process_time()
    for name in modules:
        # Some are made by other modules and cannot be imported by their name; a worker makes them again.
        with suppress(Exception):
            importlib.import_module(name)
    return Spent(time.monotonic() - began, time.process_time() - began_cpu)


def _has_threads() -> bool:
    """Whether a fork of this process would miss some."""
    names = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it ended just now
            names.append(task.joinpath("comm").read_text().strip())
    return sum(name != _HARMLESS_THREAD for name in names) > 1


def _exit_code(worker: ForkProcess, patience: float | None) -> int | None:
    """Not by `worker.join`, which also waits for processes that the worker has forked."""
    if worker.exitcode is None and worker.pid is not None:
        handle = os.pidfd_open(worker.pid)
        wait([handle], patience)
        os.close(handle)
    return worker.exitcode


def _in_a_fork(parent: int, work: Work, connection: Connection) -> None:
    die_with_parent()
    if os.getppid() == parent:  # else it has died before we could ask to die with it
        work(connection)


# --- a worker -------------------------------------------------------------------------------------


def _serve(reward: RewardFunction, cpu_seconds: float, memory: int, connection: Connection) -> None:
    """Answers the requests to a `Worker`, as their classes say. When memory ran out this process is used up.

    memory: bytes beyond what the process has now, or after a trial call.
    """
    os.register_at_fork(after_in_child=connection.close)  # as in `main`
    _limit(resource.RLIMIT_AS, _address_space() + memory)
    with suppress(EOFError):  # the parent has no more
        while True:
            request = connection.recv()
            try:
                if isinstance(request, TrialCall):
                    connection.send(_try(reward, request, memory))
                    _limit(resource.RLIMIT_AS, _address_space() + memory)
                else:
                    _score(reward, request, cpu_seconds, memory, connection)
            # CPython raises SystemError where an allocation failed in its own code; errors of the function come as
            # RewardError.
            except (MemoryError, SystemError):
                _limit(resource.RLIMIT_AS, resource.RLIM_INFINITY)  # the answer takes some, too
                connection.send(None)
                return


def _try(reward: RewardFunction, trial: TrialCall, memory: int) -> Tried:
    """Call the function for what it imports. What it makes of the response is not told: its group will tell."""
    before = set(sys.modules)
    _limit(resource.RLIMIT_CPU, resource.RLIM_INFINITY)
    began, began_cpu = time.monotonic(), time.process_time()
    with suppress(RewardError):
        _scored(reward, trial.prompt, trial_text(trial.prompt), memory)
    spent = Spent(time.monotonic() - began, time.process_time() - began_cpu)
    return Tried(spent, [name for name in sys.modules if name not in before])


def _score(
    reward: RewardFunction,
    group: Responses,
    cpu_seconds: float,
    memory: int,
    connection: Connection,
) -> None:
    for text in group.texts:
        _limit(resource.RLIMIT_CPU, math.ceil(time.process_time() + cpu_seconds))
        try:
            connection.send(_scored(reward, group.prompt, text, memory))
        except RewardError as error:
            connection.send(error)
            return


def _scored(reward: RewardFunction, prompt: Prompt, text: str, memory: int) -> tuple[float, float]:
    """As `score_response`; raises MemoryError however it shows that there was none left."""
    try:
        return score_response(reward, prompt, text)
    except RewardError as error:
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        little = max(memory / 8, _ALLOCATION)
        if isinstance(error.__cause__, _OF_MEMORY_TOO) and limit - _address_space() < little:
            raise MemoryError from error
        raise


# --- limits ---------------------------------------------------------------------------------------


def _limit(kind: int, value: int) -> None:
    """Set the soft limit, as far as the hard one allows."""
    _, hard = resource.getrlimit(kind)
    limits = [each for each in (value, hard) if each != resource.RLIM_INFINITY]
    resource.setrlimit(kind, (min(limits, default=resource.RLIM_INFINITY), hard))


def _address_space() -> int:
    """Bytes."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main(int(sys.argv[1]))
