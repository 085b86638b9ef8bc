"""The figures of a comparison: measured numbers in, one matplotlib figure each out; None where there are none."""

from collections.abc import Callable
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
from pipelines.comparison.equal_accuracy import SHARES, seeds_by_method, strongest
from pipelines.comparison.prediction_figures import calibration, confusion, prediction
from pipelines.comparison.rows import Numbers
from pipelines.monitoring.accuracy_curve import curve_of

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


def equal_accuracy(numbers: Numbers) -> "Figure | None":
    """Rollouts to the accuracy of the strongest Dynamic Sampling: a bar a method, a dot a seed."""
    reference = strongest(numbers.curves, [row.reference for row in numbers.equal_accuracy])
    rows = [
        row
        for row in numbers.equal_accuracy
        if row.reference == reference and row.cost == "rollouts"
    ]
    base = next((row.taken for row in rows if row.method == reference), None)
    if reference is None or base is None or len(rows) < 2:
        return None
    names, seeds = styles_of(numbers.runs, numbers.runs), seeds_by_method(numbers.curves)
    figure, panels = panels_of(1, 1, (10.5, 1.2 + 0.32 * len(rows)))
    axes = panels[0][0]
    for place, row in enumerate(rows):
        style = names[row.method]
        each = [curve_of([one], row.cost).cost_to(row.target) for one in seeds[row.method]]
        reached = [taken for taken in each if taken is not None]
        if row.taken is None:
            curve = curve_of(seeds[row.method], row.cost)
            words = f" not reached: {curve.accuracies[-1]:.1%} with {curve.end:,.0f}"
            axes.barh(place, curve.end, color="none", edgecolor=style.colour, linestyle=":")
            end = curve.end
        else:
            axes.barh(place, row.taken, color=style.colour, alpha=0.75)
            error = "" if row.share_error is None else f" ± {100 * row.share_error:.0f}"
            words, end = f" {row.taken / base:.0%}{error}", max([row.taken, *reached])
        axes.scatter(reached, [place] * len(reached), s=14, color="#1c242c", zorder=3)
        axes.text(end, place, words, va="center", fontsize=8, bbox={"color": "white", "pad": 0.5})
    for share in SHARES:
        axes.axvline(share * base, color="#9aa3ab", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    axes.set_yticks(range(len(rows)), [names[row.method].label for row in rows])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set(xlabel=f"rollouts to {names[reference].label}'s {rows[0].target:.1%}")
    axes.xaxis.set_major_formatter(thousands)
    axes.margins(x=0.12)
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


def learned(numbers: Numbers) -> "Figure | None":
    """Accuracy in the end against effective ratio, distinct prompts and rollouts: a small dot a seed, a large one
    the mean."""
    if any(run.accuracy is None for run in numbers.runs):
        return None
    names = styles_of(numbers.runs, numbers.runs)
    figure, panels = panels_of(1, 3, (10.5, 4.1))
    for axes, (what, label) in zip(
        panels[0],
        {
            "effective": "partial groups, of all rolled out",
            "distinct": "distinct prompts rolled out",
            "rollouts": "rollouts",
        }.items(),
        strict=True,
    ):
        for name, style in names.items():
            mine = [run for run in numbers.runs if run.method == name]
            x, y = ([getattr(run, field) for run in mine] for field in (what, "accuracy"))
            axes.scatter(x, y, s=10, color=style.colour, alpha=0.4, linewidths=0)
            axes.scatter(np.mean(x), np.mean(y), s=48, color=style.colour, zorder=3)
        axes.set(xlabel=label)
        axes.xaxis.set_major_formatter(thousands)
    panels[0][0].set(ylabel="accuracy in the end")
    panels[0][0].xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    percent(panels[0])
    legend(figure, {name: style._replace(dash="-", width=4) for name, style in names.items()})
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
        "1-equal-accuracy",
        "Rollouts to Dynamic Sampling's accuracy",
        "Where a monotone fit to the mean accuracy over seeds reaches the accuracy in which the strongest Dynamic Sampling ends, as "
        "a share of what that took itself, with its standard error; a dot is a seed. Dashed lines: "
        + ", ".join(f"{share:.0%}" for share in SHARES)
        + " of Dynamic Sampling's. Dotted bars: all rollouts of methods that do not reach it.",
        equal_accuracy,
    ),
    (
        "2-effective-ratio",
        "Effective ratio",
        f"Share of partial groups among all that a step rolled out, refills included; averaged over {SMOOTH} "
        "steps; mean over seeds, each seed faint, the other methods grey.",
        effective,
    ),
    (
        "2-learned",
        "What effective groups bring",
        "Accuracy in the end against the share of partial groups among all that was rolled out, against how many "
        "different prompts that were, and against its amount. A small dot is a seed, a large one their mean.",
        learned,
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
