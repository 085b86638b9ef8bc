"""The figure of `benchmarks.beliefs`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.beliefs import Row


def draw(measured: Sequence[Row], decay: float, batch: int, file: Path) -> None:
    """Milliseconds a step against the number of prompts, log-log."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for method, label in (
        ("loop", "loop over prompts"),
        ("eager", "eager sweep, argpartition"),
        ("sweep", "sweep alone, our memory layout"),
        ("ours", "ours"),
    ):
        line = [row for row in measured if row.method == method and row.decay == decay]
        measured_part = [row for row in line if not row.extrapolated]
        guess = [row for row in line if row.prompts >= measured_part[-1].prompts]
        (drawn,) = axes.plot(
            [row.prompts for row in measured_part],
            [row.milliseconds for row in measured_part],
            marker="o",
            label=label,
        )
        axes.plot(
            [row.prompts for row in guess],
            [row.milliseconds for row in guess],
            linestyle=":",
            color=drawn.get_color(),
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="prompts in the pool",
        ylabel="milliseconds a step",
        title=f"Observe, predict and select {batch} prompts (decay {decay}; dotted: extrapolated)",
    )
    axes.grid(alpha=0.3)
    axes.legend()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)
