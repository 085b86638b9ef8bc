"""The process of a `Sandbox`: loads a reward function, and scores what it is sent until its limits end it.

Its standard output is its parent's; what it has to say goes through the file whose number it is given. Imports
little, as every response that fails has it start again.
"""

import ctypes
import math
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from multiprocessing.connection import Connection

from dps_ray import tasks
from dps_ray.errors import RewardError
from dps_ray.rewards import RewardFunction, load_reward, score_response
from dps_ray.tasks import confinement

_PR_SET_PDEATHSIG = 1


def main(file: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.set_inheritable(file, False)
    connection = Connection(file)
    # A process that the function forks must not answer in our place, nor hide our end from the parent.
    os.register_at_fork(after_in_child=connection.close)
    confinement.enter()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    spec, cpu_seconds, memory_gib = connection.recv()
    try:
        reward = load_reward(spec)
    except RewardError as error:
        connection.send(error)
        return
    _limit(resource.RLIMIT_AS, _address_space() + int(memory_gib * 2**30))
    connection.send(None)
    with suppress(EOFError):  # the parent has no more
        _serve(connection, reward, cpu_seconds)


def _serve(connection: Connection, reward: RewardFunction, cpu_seconds: float) -> None:
    """Answers a group with True when it is ready to score, and each response with its score and accuracy, up to the
    first that fails.

    Answers that with the error, or with None, as in place of True, when memory ran out; then this process is used up.
    """
    while True:
        prompt, texts = connection.recv()
        if reward is tasks.compute_score:
            _limit(resource.RLIMIT_CPU, resource.RLIM_INFINITY)
            try:
                tasks.load(prompt.data_source)
            except MemoryError:
                connection.send(None)
                return
        connection.send(True)
        for text in texts:
            _limit(resource.RLIMIT_CPU, math.ceil(time.process_time() + cpu_seconds))
            try:
                connection.send(score_response(reward, prompt, text))
            except RewardError as error:
                connection.send(error)
                break
            except MemoryError:
                connection.send(None)
                return


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
