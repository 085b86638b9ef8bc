"""A reward function in a process of its own that can be killed, so that one response costs no more than its limits.

    Sandbox ── prompt, texts of a group ──> python -m dps_ray.sandbox_child
            <── ready; score, or error, one by one ──┘

What a policy under training writes can make a reward function hang, use up memory or crash the interpreter.
It is a guard against such accidents, not against malice: the function has the files and the network.
Linux only.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dps_ray.config import VerifierSettings
from dps_ray.errors import ResponseError, RewardError
from dps_ray.prompts import Prompt
from dps_ray.rewards import name_of, short


class Sandbox:
    """Measured on 2 cores with groups of 8: 0.025 ms a response more than the bare function; 0.4 to 0.5 s to
    start, and so for every response that ends the child, most of it importing numpy and pyarrow.

    Make it in a thread that lasts: the child dies with the thread that started it.

    Args:
        reward: as `dps_ray.rewards.load_reward` takes it.
        limits: for one response.
        start: seconds that loading the function may take, and what a built-in task needs.
    """

    def __init__(self, reward: str | None, limits: VerifierSettings, start: float) -> None:
        self._reward = reward
        self._limits = limits
        self._start = start
        self._child: subprocess.Popen[bytes] | None = None
        self._connection: Connection

    def start(self) -> None:
        """Load the function, unless it is.

        Raises:
            RewardError: it cannot be loaded.
        """
        if self._child is not None and self._child.poll() is None:
            return
        self.close()
        self._connection, theirs = Pipe()
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "dps_ray.sandbox_child", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # and so a process group, which ends as a whole
            )
        try:
            limits = self._limits.cpu_seconds, self._limits.memory_gib
            self._connection.send((self._reward, *limits))
            error = self._answer(self._start)
        except TimeoutError:
            error = RewardError(
                f"the reward function {self._reward} was not loaded within {self._start:g} s"
            )
        except (EOFError, OSError):
            how = self._how_it_ended()
            error = RewardError(f"the reward function {self._reward} {how} while it was loaded")
        if error is not None:
            self.close()
            raise error

    def score(
        self, prompt: Prompt, texts: Sequence[str]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scores and accuracies, float64 (k,) each, of the k responses `texts` to one prompt.

        Stops at the first response that fails, as a group is of use only when it is whole.

        Raises:
            ResponseError: the function did not return on a response.
            RewardError: it raised, or returned no number, or cannot be loaded.
            NonFiniteRewardError: a score is NaN or infinite.
        """
        self.start()
        with suppress(OSError):  # the child ended meanwhile, as the first answer tells
            self._connection.send((prompt._replace(messages=[], images=[]), list(texts)))
            self._wait_until_ready(prompt)
        results = [self._score(prompt, text) for text in texts]
        scores, accuracies = np.array(results, dtype=np.float64).reshape(-1, 2).T
        return scores, accuracies

    def _wait_until_ready(self, prompt: Prompt) -> None:
        """A built-in task may have much to import for its first group, which is not charged to a response."""
        try:
            ready = self._answer(self._start)
        except EOFError:  # as above
            return
        except TimeoutError:
            why = f"was not loaded within {self._start:g} s"
        else:
            if ready:
                return
            why = f"takes more than {self._limits.memory_gib:g} GiB to load; raise verifier.memory_gib"
        self.close()
        raise RewardError(f"the built-in reward for {prompt.data_source!r} {why}")

    def _score(self, prompt: Prompt, text: str) -> tuple[float, float]:
        limits = self._limits
        try:
            answer = self._answer(limits.seconds)
        except TimeoutError:
            why = f"gave no answer within {limits.seconds:g} s (verifier.seconds)"
        except (EOFError, OSError):
            why = self._how_it_ended()
        else:
            if isinstance(answer, RewardError):
                raise answer
            if answer is not None:
                return answer
            why = f"needed more than {limits.memory_gib:g} GiB (verifier.memory_gib)"
        self.close()
        raise ResponseError(
            f"the reward function {why} on the response {short(text)} ({name_of(prompt)}); it must "
            "return on any text, within the limits verifier.*"
        )

    def _answer(self, seconds: float) -> Any:
        if not self._connection.poll(seconds):
            raise TimeoutError
        return self._connection.recv()

    def _how_it_ended(self) -> str:
        assert self._child is not None
        try:
            status = self._child.wait(self._limits.seconds)
        except subprocess.TimeoutExpired:
            return "closed the files of its process"
        if status == -signal.SIGXCPU:
            limit = self._limits.cpu_seconds
            return f"took more than {limit:g} s of processor time (verifier.cpu_seconds)"
        if status < 0:
            return f"was ended by signal {-status} ({signal.strsignal(-status)})"
        return f"ended its process with status {status}"

    def close(self) -> None:
        """End the child and what it started, if there is one."""
        if self._child is None:
            return
        with suppress(ProcessLookupError):  # none of the group is left
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        self._connection.close()
        self._child = None
