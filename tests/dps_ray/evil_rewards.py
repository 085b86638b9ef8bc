"""What a reward function may do, for tests of its sandbox: the response names it.

`abc` is scored by its length, `spin:` by the function of that name, `fork:FILE` likewise with an argument.
"""

import ctypes
import fcntl
import os
import signal
import time

HELD = []


def reward(data_source, solution_str, ground_truth, extra_info=None):
    what, colon, argument = solution_str.partition(":")
    return globals()[what](argument) if colon else float(len(what))


def pid(_):
    return float(os.getpid())


def burn(seconds):
    end = time.process_time() + float(seconds)
    while time.process_time() < end:
        pass
    return 1.0


def print_a_lot(_):
    print("x" * 2**20, flush=True)
    os.write(2, b"\x00" * 2**20)
    return 1.0


def return_nan(_):
    return float("nan")


def fail(_):
    raise KeyError("difficulty")


def spin(_):
    while True:
        pass


def hang(_):
    while True:
        signal.pause()


def allocate(_):
    return len(bytearray(10 * 2**30))


def segfault(_):
    return ctypes.string_at(0)


def leave(_):
    os._exit(3)


def leave_politely(_):
    raise SystemExit(0)


def close_everything(_):
    os.closerange(3, 1000)
    return 1.0


def lock(file):
    """This process, and those it forks, hold the file until they end."""
    HELD.append(open(file, "w"))  # noqa: SIM115
    fcntl.flock(HELD[-1], fcntl.LOCK_EX)
    HELD[-1].write("locked")
    HELD[-1].flush()


def fork(file):
    lock(file)
    if os.fork() == 0:
        hang(None)
    return 1.0


def fork_and_hang(file):
    fork(file)
    hang(None)


def fork_and_leave(file):
    fork(file)
    os._exit(3)


def fork_and_return_twice(_):
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    return 1.0


def end_parent_and_hang(file):
    """The process that has loaded the function; this one is a fork of it."""
    lock(file)
    os.kill(os.getppid(), signal.SIGKILL)
    hang(None)


def end_owner_and_hang(file):
    """The process that has made the sandbox."""
    lock(file)
    with open(f"/proc/{os.getppid()}/stat") as stat:
        owner = int(stat.read().rpartition(")")[2].split()[1])
    os.kill(owner, signal.SIGKILL)
    hang(None)
