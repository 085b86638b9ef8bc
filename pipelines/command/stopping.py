"""Handling of SIGTERM and Ctrl-C: the current step is dropped, or finished if its observation is already logged, and the
run is saved.

Ray stops a job by SIGTERM, and by SIGKILL three seconds later.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from actors.calls import interrupted_by


class StopRequested(BaseException):
    """A stop signal arrived. Raised where the driver waits for actors, or at the end of a `Stopping.held` block."""

    def __init__(self, signal_number: int):
        super().__init__(signal.Signals(signal_number).name)
        self.signal = signal.Signals(signal_number)


class Stopping:
    """Turns the two signals into `StopRequested`."""

    def __init__(self) -> None:
        self._held = 0
        self._received: int | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handles the signals during a block. Must be entered in the main thread, after Ray was started, because Ray
        installs its own handler."""
        wanted = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self._receive) for number in wanted}
        interrupted_by(self._check)
        try:
            yield
        finally:
            interrupted_by(None)
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Delays the effect of a signal until the end of a block."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        self._check()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = number

    def _check(self) -> None:
        if self._received is not None and not self._held:
            received, self._received = self._received, None
            raise StopRequested(received)
