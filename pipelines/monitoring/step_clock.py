"""Where the time of a step went: for the driver by phase, for the pools by when they worked."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.monitoring.metrics import BUSY_SHARE, PHASE_SECONDS, STEP_SECONDS
from pipelines.monitoring.timeline import Span, Timeline, busy_share

# Phases in which the driver waits for a pool, which has a lane of its own.
_WAITS = ("generate", "score", "train")


class StepClock:
    """The clock of the steps, one after the other.

    Args:
        folder: the run's, for its timeline.
        tell: called with each phase as it begins.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self.timeline = Timeline(folder)
        self.times: dict[str, float] = {}  # seconds of the driver by phase, in this step
        self._tell = tell
        self._step = 0
        self._began = time.time()
        self._spans: list[Span] = []

    def begin(self, step: int) -> None:
        self._step, self._began, self.times = step, time.time(), {}
        self._write()

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time within to a phase of the step."""
        self._tell(phase)
        began = time.time()
        yield
        ended = time.time()
        self.times[phase] = self.times.get(phase, 0.0) + ended - began
        if phase not in _WAITS:
            self._spans.append(Span("driver", phase, self._step, began, ended))

    @contextmanager
    def only(self, phase: str) -> Iterator[None]:
        """What is timed within counts for this phase, whatever it is called there."""
        times, self.times, began = self.times, {}, time.time()
        try:
            yield
        finally:
            self.times = {**times, phase: time.time() - began}

    def worked(self, pool: str, name: str, step: int, spans: Iterable[tuple[float, float]]) -> None:
        """A lane of a pool worked for a step, from when to when in Unix seconds."""
        self._spans += [Span(pool, name, step, *span) for span in spans]

    @property
    def seconds(self) -> float:
        """Since the step began."""
        return time.time() - self._began

    def metrics(self) -> dict[str, float]:
        """Of the step that ends now: `timing_s/<phase>`, `timing_s/step` without its probe, and for each pool the
        share of the step, probe included, in which it worked."""
        now = time.time()
        times = {
            PHASE_SECONDS.format(phase=phase): seconds for phase, seconds in self.times.items()
        }
        times[STEP_SECONDS] = now - self._began - self.times.get("probe", 0.0)
        busy = {
            BUSY_SHARE.format(pool=pool): busy_share(self._spans, pool, self._began, now)
            for pool in ("rollout", "learner")
        }
        self._write()
        return {**times, **busy}

    def rewind(self, step: int) -> None:
        """What was recorded after it did not happen."""
        self._spans = []
        self.timeline.rewind(step)

    def _write(self) -> None:
        spans, self._spans = self._spans, []
        for span in spans:
            self.timeline.add(*span)
