"""What a person sees while a run goes on.

    make_view ─> PanelView   at a terminal: one panel of eight lines, redrawn in place
             └─> LineView    in a file, a pipe, a job's log: a line a step, no control characters

Both read the same `RunSoFar`, which adds up the metrics handed in and knows neither screen nor clock.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean, median
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from pipelines.monitoring.held_out import Accuracy, held_out_accuracy
from pipelines.monitoring.metrics import (
    EFFECTIVE_RATIO,
    PHASE_SECONDS,
    PHASES,
    REWARD_MEAN,
    STEP_SECONDS,
    THROUGHPUT,
    TOTAL_ROLLOUTS,
    TRAINING_STEP,
    UNIFORM_RATIO,
)
from pipelines.monitoring.summary import duration, percent

_RECENT_STEPS = 20
_SECONDS_BETWEEN_PROGRESS_LINES = 5.0
_PANEL_WIDTH = 96
_PHASE_COLOURS = ("cyan", "yellow", "magenta", "blue", "green")


@dataclass
class RunSoFar:
    """The metrics seen so far, as far as they are shown. `accuracy` holds one entry an evaluation,
    `uniform` one a probe, the other series one a step; seconds and shares are plain floats."""

    total_steps: int
    step: int = 0
    reward: list[float] = field(default_factory=list)
    effective: list[float] = field(default_factory=list)
    uniform: list[float] = field(default_factory=list)
    accuracy: list[Accuracy] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    phase_seconds: dict[str, float] = field(default_factory=dict)
    rollouts: int = 0
    throughput: float | None = None

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        self.step = step
        for series, name in (
            (self.reward, REWARD_MEAN),
            (self.effective, EFFECTIVE_RATIO),
            (self.uniform, UNIFORM_RATIO),
            (self.step_seconds, STEP_SECONDS),
        ):
            if name in metrics:
                series.append(metrics[name])
        if accuracy := held_out_accuracy(metrics):
            self.accuracy.append(accuracy)
        for phase in PHASES:
            if seconds := metrics.get(PHASE_SECONDS.format(phase=phase)):
                self.phase_seconds[phase] = self.phase_seconds.get(phase, 0.0) + seconds
        self.rollouts = int(metrics.get(TOTAL_ROLLOUTS, self.rollouts))
        self.throughput = metrics.get(THROUGHPUT, self.throughput)

    def eta(self) -> str:
        """The time left if the coming steps take the median of the last 20; empty before the first."""
        if not self.step_seconds or self.step >= self.total_steps:
            return ""
        left = (self.total_steps - self.step) * median(self.step_seconds[-_RECENT_STEPS:])
        return "eta " + duration(left)

    def phase_shares(self) -> list[tuple[str, float]]:
        """(phase, share of the time), largest first; what follows the four largest is "other"."""
        total = sum(self.phase_seconds.values())
        shares = sorted(
            ((s / total, phase) for phase, s in self.phase_seconds.items()), reverse=True
        )
        top = [(phase, share) for share, phase in shares[:4]]
        rest = sum(share for share, _ in shares[4:])
        return [*top, ("other", rest)] if rest else top


class View(ABC):
    """What the loop tells, in the order it happens; a context manager that leaves the screen clean."""

    def __init__(self, total_steps: int, console: Console, clock: Callable[[], float]) -> None:
        self.so_far = RunSoFar(total_steps)
        self._console = console
        self._clock = clock
        self._phase = ""
        self._phase_began = clock()

    @abstractmethod
    def start(self, title: str, lines: Iterable[str]) -> None:
        """Opens the view: what runs, and a few lines on how it is set up."""

    @abstractmethod
    def progress(self, done: int, total: int, unit: str) -> None:
        """How far the phase now going on has come; cheap enough to call for every item."""

    @abstractmethod
    def finish(self, text: str) -> None:
        """Closes the view and prints the closing words."""

    def phase(self, name: str) -> None:
        """What is going on from now on: "select", "generate", ..., or any other words."""
        self._phase, self._phase_began = name, self._clock()

    def rewind(self, step: int) -> None:
        """Counts from a checkpoint's step instead of from 0."""
        self.so_far.step = step

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes in the metrics of a step that is done, and those of an evaluation after it.

        Step 0 is the evaluation before training.
        """
        self.so_far.add(step, metrics)

    def message(self, text: str) -> None:
        """Prints something a person should know, once."""
        self._console.out(text, highlight=False)

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, *_: object) -> None:
        """Gives the screen back, whether or not the run came to its end."""


def make_view(
    total_steps: int,
    console: Console | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> View:
    """A panel where it can be drawn, plain lines elsewhere. `clock` gives seconds, from any origin."""
    console = console or Console()
    drawable = console.is_terminal and not console.is_dumb_terminal
    if drawable and not console.options.ascii_only:
        return PanelView(total_steps, console, clock)
    return LineView(total_steps, console, clock)


class LineView(View):
    """One line a step; long phases say how far they are every five seconds."""

    def __init__(self, total_steps: int, console: Console, clock: Callable[[], float]) -> None:
        super().__init__(total_steps, console, clock)
        self._last_progress = self._phase_began

    def start(self, title: str, lines: Iterable[str]) -> None:
        self.message(title)
        for line in lines:
            self.message("  " + line)

    def phase(self, name: str) -> None:
        super().phase(name)
        self._last_progress = self._phase_began

    def progress(self, done: int, total: int, unit: str) -> None:
        now = self._clock()
        if now - self._last_progress >= _SECONDS_BETWEEN_PROGRESS_LINES:
            self._last_progress = now
            self.message(f"  {self._phase}  {done:,}/{total:,} {unit}")

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        super().step(step, metrics)
        if TRAINING_STEP in metrics:
            self.message(self._step_line(metrics))
        if accuracy := held_out_accuracy(metrics):
            mean, low, high = (percent(share) for share in accuracy)
            label = "eval".ljust(len(self._counter()))
            self.message(f"{label}  held-out accuracy {mean} (95% interval {low} to {high})")

    def finish(self, text: str) -> None:
        self.message("\n" + text)

    def __exit__(self, *_: object) -> None:
        """Lines leave nothing on the screen to put right."""

    def _counter(self) -> str:
        total = str(self.so_far.total_steps)
        return f"step {self.so_far.step:>{len(total)}}/{total}"

    def _step_line(self, metrics: Mapping[str, float]) -> str:
        run, parts = self.so_far, [self._counter()]
        if (reward := metrics.get(REWARD_MEAN)) is not None:
            parts.append(f"reward {reward:.2f}")
        if (effective := metrics.get(EFFECTIVE_RATIO)) is not None:
            against = f" (uniform {run.uniform[-1]:.2f})" if run.uniform else ""
            parts.append(f"effective {effective:.2f}{against}")
        parts.append(f"rollouts {run.rollouts:>7,}")
        if (throughput := metrics.get(THROUGHPUT)) is not None:
            parts.append(f"{throughput:>7,.0f} tok/s")
        if (seconds := metrics.get(STEP_SECONDS)) is not None:
            parts.append(f"{seconds:4.1f} s")
        return "  ".join([*parts, run.eta()]).rstrip()


class PanelView(View):
    """A panel of eight lines that keeps its height from the first moment to the last."""

    def __init__(self, total_steps: int, console: Console, clock: Callable[[], float]) -> None:
        super().__init__(total_steps, console, clock)
        self._title = ""
        self._progress: tuple[int, int, str] | None = None
        self._live = Live(console=console, get_renderable=self.panel, refresh_per_second=4)

    def start(self, title: str, lines: Iterable[str]) -> None:
        self._title = title
        for line in lines:
            self._console.print(Text(line, style="dim"))
        self._live.start()

    def phase(self, name: str) -> None:
        self._progress = None
        super().phase(name)

    def progress(self, done: int, total: int, unit: str) -> None:
        self._progress = (done, total, unit)

    def finish(self, text: str) -> None:
        self.phase("done")
        self._live.stop()
        self._console.print(Text("\n" + text))

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def panel(self) -> Panel:
        """The panel as it is now; drawn by Live four times a second from a thread of its own."""
        width = min(self._console.width, _PANEL_WIDTH)
        inner = width - 4
        body = Group(self._steps_line(inner), self._numbers(inner), *self._times(inner))
        title = Text(self._title, style="bold")
        return Panel(body, title=title, title_align="left", width=width, border_style="dim")

    def _steps_line(self, width: int) -> Text:
        run = self.so_far
        counter, eta = f"step {run.step}/{run.total_steps}  ", f"  {run.eta():>10}"
        full, cells = run.step / run.total_steps, width - len(counter) - len(eta)
        done = round(min(full, 1.0) * cells)
        line = Text(counter, style="bold").append("━" * done, style="cyan")
        line.append("━" * (cells - done), style="not bold bright_black")
        return line.append(eta, style="not bold")

    def _phase_words(self) -> Text:
        seconds = self._clock() - self._phase_began
        words = Text(self._phase, style="cyan")
        if self._progress:
            done, total, unit = self._progress
            words.append(f"  {done:,}/{total:,} {unit}", style="dim")
        if self._phase != "done" and seconds >= 1:
            words.append(f"  {duration(seconds)}", style="dim")
        return words

    def _numbers(self, width: int) -> Table:
        run = self.so_far
        accuracies = [accuracy.mean for accuracy in run.accuracy]
        speed = "" if run.throughput is None else f"{run.throughput:,.0f} tokens/s"
        curve = width // 2 - 21
        table = Table.grid(expand=True)
        table.add_column(ratio=1, no_wrap=True)
        table.add_column(ratio=1, no_wrap=True)
        table.add_row(self._phase_words(), _number("rollouts", f"{run.rollouts:,}").append(speed))
        table.add_row(
            _number("reward", _ratio(run.reward), sparkline(run.reward, curve)),
            _number("accuracy", _ratio(accuracies), sparkline(accuracies, curve)),
        )
        table.add_row(
            _number("effective", _ratio(run.effective), sparkline(run.effective, curve, 0, 1)),
            _number("uniform", _ratio(run.uniform), sparkline(run.uniform, curve, 0, 1)),
        )
        return table

    def _times(self, width: int) -> tuple[Text, Text]:
        """A bar of the time spent, split by phase, and under it the names of its parts."""
        bar, names = Text("time      ", style="dim"), Text(" " * 10)
        shares = self.so_far.phase_shares()
        cells, drawn, reached = width - len(bar), 0, 0.0
        for (phase, share), colour in zip(shares, _PHASE_COLOURS, strict=False):
            reached += share
            bar.append("█" * (round(reached * cells) - drawn), style=f"not dim {colour}")
            drawn = round(reached * cells)
            names.append(f"{phase} {share:.0%}   ", style=colour)
        names.truncate(width)
        return bar.append("" if shares else "–"), names


def _number(label: str, value: str, curve: str = "") -> Text:
    line = Text(f"{label:<10}", style="dim")
    line.append(f"{value:<9}", style="not dim bold")
    return line.append(curve, style="not dim cyan")


def _ratio(series: Sequence[float]) -> str:
    return f"{series[-1]:.2f}" if series else "–"


def sparkline(
    values: Sequence[float], cells: int, low: float | None = None, high: float | None = None
) -> str:
    """The whole series in at most `cells` characters, each the mean of its share of the values.

    The scale runs from `low` to `high`, or from the smallest to the largest character drawn.
    """
    cells = min(cells, len(values))
    edges = [len(values) * cell // cells for cell in range(cells + 1)] if cells else []
    means = [fmean(values[a:b]) for a, b in pairwise(edges)]
    if not means:
        return ""
    bottom = min(means) if low is None else low
    top = max(means) if high is None else high
    span = (top - bottom) or 1.0
    return "".join("▁▂▃▄▅▆▇█"[max(0, min(7, int(8 * (mean - bottom) / span)))] for mean in means)
