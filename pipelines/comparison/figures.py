"""The figures of a comparison: measured numbers in, one matplotlib figure each out; None where there are none."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.comparison.drawing import (
    SMOOTH,
    Drawn,
    legend,
    line,
    matplotlib_set_up,
    mean_by_step,
    panels_of,
    percent,
    save,
    seeds_of,
    smooth,
    styles_of,
    thousands,
)
from pipelines.comparison.measures import STATES, THIRDS, Numbers, brier

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(numbers: Numbers, folder: Path) -> list[Drawn]:
    """Saves every figure there are numbers for.

    Raises:
        ResourceError: matplotlib is not installed.
    """
    with matplotlib_set_up():
        return [
            save(figure, name, title, caption, folder)
            for name, title, caption, make in _FIGURES
            if (figure := make(numbers)) is not None
        ]


def accuracy(numbers: Numbers) -> "Figure":
    """Accuracy against what it cost: rollouts, tokens, seconds."""
    names = styles_of(numbers.runs, numbers.curves)
    figure, panels = panels_of(1, 3, (10.5, 4.1))
    for axes, cost, label in zip(
        panels[0],
        ("rollouts", "tokens", "seconds"),
        ("rollouts", "tokens generated", "seconds"),
        strict=True,
    ):
        for name, style in names.items():
            points = [p for p in numbers.curves if p.method == name and p.accuracy is not None]
            for seed in seeds_of(points):
                own = [p for p in points if p.seed == seed]
                axes.plot(
                    [getattr(p, cost) for p in own],
                    [p.accuracy for p in own],
                    color=style.colour,
                    alpha=0.22,
                    linewidth=0.8,
                )
            x, y = (mean_by_step(points, field)[1] for field in (cost, "accuracy"))
            axes.plot(x, y, **line(style), marker="o", markersize=2.5)
        axes.set(xlabel=label)
        axes.xaxis.set_major_formatter(thousands)
    panels[0][0].set(ylabel="accuracy on held-out prompts")
    percent(panels[0])
    legend(figure, names)
    return figure


def effective(numbers: Numbers) -> "Figure":
    """Effective ratio a step: a panel a method, before the others in grey."""
    names = styles_of(numbers.runs, numbers.curves)
    points = [p for p in numbers.curves if p.effective is not None]
    means = {n: mean_by_step([p for p in points if p.method == n], "effective") for n in names}
    columns = min(len(names), 5)
    figure, panels = panels_of(-(-len(names) // columns), columns, (10.5, 2.2), rows_high=True)
    for axes, (name, style) in zip(panels.flat, names.items(), strict=False):
        for other, (steps, ratio) in means.items():
            if other != name:
                axes.plot(steps, smooth(ratio), color="#d3d8dc", linewidth=0.8)
        mine = [p for p in points if p.method == name]
        for seed in seeds_of(mine):
            own = [p for p in mine if p.seed == seed]
            ratio = np.array([p.effective for p in own])
            axes.plot([p.step for p in own], smooth(ratio), color=style.colour, alpha=0.3, lw=0.8)
        axes.plot(means[name][0], smooth(means[name][1]), color=style.colour, linewidth=2)
        axes.set_title(f"{style.label}, mean {means[name][1].mean():.0%}", color=style.colour)
        axes.set(ylim=(0, 1))
    for axes in list(panels.flat)[len(names) :]:
        axes.set_axis_off()
    for axes in panels[-1]:
        axes.set(xlabel="step")
    percent(panels[:, 0])
    return figure


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


def coverage(numbers: Numbers) -> "Figure":
    """Distinct prompts, overlap of batches, and how often prompts were sampled."""
    names = styles_of(numbers.runs, numbers.coverage)
    figure, panels = panels_of(1, 3, (10.5, 4.1), sharey=False)
    distinct, overlap, often = panels[0]
    for name, style in names.items():
        rows = [c for c in numbers.coverage if c.method == name]
        distinct.plot(*mean_by_step(rows, "distinct"), **line(style))
        steps, values = mean_by_step([c for c in rows if c.overlap is not None], "overlap")
        overlap.plot(steps, smooth(values), **line(style))
        sampled = [s for s in numbers.times_sampled if s.method == name and s.times > 0]
        if sampled:
            times = np.arange(1, max(s.times for s in sampled) + 1)
            seeds = len(seeds_of(sampled))
            least = [sum(s.prompts for s in sampled if s.times >= t) / seeds for t in times]
            often.plot(times, least, **line(style), drawstyle="steps-mid")
    distinct.set_title("Distinct prompts rolled out")
    overlap.set_title("Batch that was in the one before")
    often.set_title("Prompts rolled out at least so often")
    distinct.set(xlabel="step", ylim=(0, None))
    overlap.set(xlabel="step", ylim=(0, 1))
    often.set(xlabel="times", xscale="log", yscale="log")
    for axis in (often.xaxis, distinct.yaxis, often.yaxis):
        axis.set_major_formatter(thousands)
    percent([overlap])
    legend(figure, names)
    return figure


_FIGURES: list[tuple[str, str, str, Callable[[Numbers], Any]]] = [
    (
        "1-accuracy",
        "Accuracy against what it cost",
        "Mean over seeds, each seed faint. Probes and discarded groups are charged to all; seconds are those of "
        "steps and probes, without start-up and evaluations.",
        accuracy,
    ),
    (
        "2-effective-ratio",
        "Effective ratio",
        f"Share of partial groups among all that a step rolled out, refills included; averaged over {SMOOTH} "
        "steps; mean over seeds, each seed faint, the other methods grey.",
        effective,
    ),
    (
        "3-prediction",
        "Prediction",
        "The likeliest state before the step against the state then seen. The batch holds the prompts that the "
        f"method chose (averaged over {SMOOTH} steps), the probe a uniform draw.",
        prediction,
    ),
    (
        "3-confusion",
        "Predicted against seen states",
        "Shares of each predicted state and counts, in the three thirds of the steps, all seeds together.",
        confusion,
    ),
    (
        "3-calibration",
        "Calibration of P(partial)",
        "On the diagonal a probability means what it says; dots by their number of prompts. In brackets the "
        "Brier score of always predicting the share that was partial.",
        calibration,
    ),
    (
        "4-coverage",
        "Coverage",
        f"Means over seeds; the overlap is averaged over {SMOOTH} steps.",
        coverage,
    ),
]


def _on(rows: Sequence[Any]) -> list[str]:
    return sorted({row.on for row in rows})


def _where(on: str) -> str:
    return {"batch": "batch", "probe": "uniform probe"}[on]
