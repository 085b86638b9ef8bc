"""Figures of how well a method predicts: its forecasts against what was found, on its batches and on the probe."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.comparison.drawing import (
    legend,
    line,
    mean_by_step,
    panels_of,
    percent,
    smooth,
    styles_of,
)
from pipelines.comparison.measures import brier
from pipelines.comparison.rows import STATES, THIRDS, Numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def prediction(numbers: Numbers) -> "Figure | None":
    """Accuracy, precision, recall and F1 a step, on the batch and on the probe."""
    names = styles_of(numbers.runs, numbers.prediction)
    if not names:
        return None
    on_what = _on(numbers.prediction)
    last = max(q.step for q in numbers.prediction) + 1
    figure, panels = panels_of(len(on_what), 4, (10.5, 2.3), rows_high=True)
    for row, on in zip(panels, on_what, strict=True):
        for axes, measure in zip(row, ("accuracy", "precision", "recall", "f1"), strict=True):
            for name, style in names.items():
                rows = [q for q in numbers.prediction if q.method == name and q.on == on]
                steps, values = mean_by_step(
                    [q for q in rows if getattr(q, measure) is not None], measure
                )
                every_step = on == "batch"
                axes.plot(
                    steps,
                    smooth(values) if every_step else values,
                    **line(style),
                    marker=None if every_step else "o",
                    markersize=2.5,
                )
            what = measure if measure == "accuracy" else f"{measure.replace('f1', 'F1')} of partial"
            axes.set_title(f"{what}, {_where(on)}")
            axes.set(xlim=(0, last), ylim=(0, 1.02))
        percent(row[:1])
    for axes in panels[-1]:
        axes.set(xlabel="step")
    legend(figure, names)
    return figure


def confusion(numbers: Numbers) -> "Figure | None":
    """Predicted against seen states in each third of the run, all seeds together."""
    names = styles_of(numbers.runs, numbers.confusion)
    if not names:
        return None
    columns = [(on, third) for on in _on(numbers.confusion) for third in THIRDS]
    figure, panels = panels_of(len(names), len(columns), (10.5, 1.75), rows_high=True)
    for row, (name, style) in zip(panels, names.items(), strict=True):
        for axes, (on, third) in zip(row, columns, strict=True):
            cells = [c for c in numbers.confusion if (c.method, c.on, c.third) == (name, on, third)]
            counts = np.zeros((3, 3))
            for cell in cells:
                counts[STATES.index(cell.predicted), STATES.index(cell.seen)] += cell.prompts
            shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
            axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.15)
            for (i, j), share in np.ndenumerate(shares):
                text = f"{share:.0%}\n{counts[i, j]:,.0f}" if counts[i].any() else "-"
                colour = "white" if share > 0.6 else "#1c242c"
                axes.text(j, i, text, ha="center", va="center", fontsize=6, color=colour)
            axes.set_xticks(range(3), STATES, fontsize=6)
            axes.set_yticks(
                range(3), STATES, fontsize=6
            )  # shared, so that the first alone shows them
            axes.grid(visible=False)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        row[0].set_ylabel(f"{style.label}\npredicted", color=style.colour)
    for (on, third), first, last in zip(columns, panels[0], panels[-1], strict=True):
        first.set_title(f"{_where(on)}, {third}")
        last.set_xlabel("seen", fontsize=7)
    return figure


def calibration(numbers: Numbers) -> "Figure | None":
    """Share that was partial against the predicted one, all seeds together, and Brier scores."""
    names = styles_of(numbers.runs, numbers.calibration)
    if not names:
        return None
    on_what = _on(numbers.calibration)
    figure, panels = panels_of(1, len(on_what), (4.6 * len(on_what), 4.8))
    for axes, on in zip(panels[0], on_what, strict=True):
        axes.plot([0, 1], [0, 1], color="#9aa3ab", linewidth=0.8)
        for name, style in names.items():
            bins = [b for b in numbers.calibration if b.method == name and b.on == on]
            lows = sorted({b.low for b in bins})
            merged = [[b for b in bins if b.low == low] for low in lows]
            weights = [sum(b.prompts for b in same) for same in merged]
            x, y = (
                [
                    np.average([getattr(b, f) for b in same], weights=[b.prompts for b in same])
                    for same in merged
                ]
                for f in ("predicted", "observed")
            )
            score, constant = brier(bins)
            label = f"{style.label}: Brier {score:.3f} (constant {constant:.3f})"
            axes.plot(x, y, **line(style), label=label)
            size = 90 * np.array(weights) / max(weights) + 4
            axes.scatter(x, y, s=size, color=style.colour, alpha=0.55, linewidths=0, zorder=3)
        axes.set_title(_where(on))
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="predicted P(partial)")
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.13))
    panels[0][0].set(ylabel="share that was partial")
    return figure


def _on(rows: Sequence[Any]) -> list[str]:
    return sorted({row.on for row in rows})


def _where(on: str) -> str:
    return {"batch": "batch", "probe": "uniform probe"}[on]
