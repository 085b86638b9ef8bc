"""Where answers are compared: in a process that can be killed.

The verifiers of a run score in such a process already (`dps_ray.rewards.sandbox`), and compare there. Whoever calls
`compute_score` from elsewhere gets one on first use. It serves all threads, one answer after the other, and ends with
this process; a forked process starts its own.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

from dps_ray.errors import ResponseError
from dps_ray.prompts.dataset import Prompt
from dps_ray.rewards import sandboxed
from dps_ray.rewards.sandbox import Sandbox
from dps_ray.rewards.settings import VerifierSettings

_START = 120.0  # seconds in which SymPy must be imported


def load() -> None:
    """Import what comparing takes, where that is to be done in this process."""
    if sandboxed.here():
        from dps_ray.tasks import equality  # noqa: F401  takes 1 to 2 s, which other tasks need not pay


def equal(truth: str, answer: str, numeric: bool) -> bool:
    """`dps_ray.tasks.equality.equal`, within limits.

    Raises:
        ResponseError: it reached one. Within a sandbox the parent process raises it instead.
    """
    if sandboxed.here():
        from dps_ray.tasks import equality

        return equality.equal(truth, answer, numeric)
    return _comparer.equal(truth, answer, numeric)


class Comparer:
    """A sandbox, and the thread that starts it: a sandbox ends with its thread, and callers' may be short-lived.

    Args:
        limits: for one answer; those of a run by default.
    """

    def __init__(self, limits: VerifierSettings | None = None) -> None:
        self._limits = limits or VerifierSettings()
        self._lock = Lock()
        self._thread: ThreadPoolExecutor | None = None
        self._sandbox: Sandbox | None = None  # of the thread

    def equal(self, truth: str, answer: str, numeric: bool) -> bool:
        """From any thread.

        Raises:
            ResponseError: a limit was reached; the process that compared is gone, and the next answer gets another.
        """
        with self._lock:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, "mathematics")
        return self._thread.submit(self._equal, truth, answer, numeric).result()

    def _equal(self, truth: str, answer: str, numeric: bool) -> bool:
        if self._sandbox is None:
            self._sandbox = Sandbox("dps_ray.tasks.equality:score", self._limits, _START)
        prompt = Prompt(0, [], "mathematics", truth, {"numeric": numeric}, [])
        try:
            scores, _ = self._sandbox.score(prompt, [answer])
        except ResponseError as error:
            limits = self._limits
            raise ResponseError(
                f"whether {answer!r} equals {truth!r} was not found out within {limits.seconds:g} s, "
                f"{limits.cpu_seconds:g} s of processor time and {limits.memory_gib:g} GiB"
            ) from error
        return bool(scores[0])


_comparer = Comparer()


def _begin_anew() -> None:
    global _comparer
    _comparer = Comparer()


os.register_at_fork(after_in_child=_begin_anew)  # threads and children stay with the parent
