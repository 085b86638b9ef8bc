"""How the report's charts look: the palette, the empty figure, and lines over the steps.

Blue is the run itself, ochre what it is compared with, grey the rest. Titles, captions and legends
belong to the page, so that they wrap like text on a narrow screen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

BLUE, OCHRE, GREY, PLUM = "#35709e", "#c98b2f", "#9aa3ab", "#7a5c82"
PALE_BLUE, PALE_GREY = "#9dbdd3", "#cfd5da"

Record = Mapping[str, float]


class Chart(NamedTuple):
    """A figure, its words, and the (name, colour) of each thing drawn where there is more than one."""

    title: str
    caption: str
    figure: go.Figure
    legend: list[tuple[str, str]]


def curves(
    records: Sequence[Record],
    title: str,
    caption: str,
    wanted: Sequence[tuple[str, str, str]],
    unit: str,
) -> Chart | None:
    """Lines over the steps for those of the (metric, name, colour) that were recorded."""
    figure, legend = empty_figure(unit, records), []
    hover = {"%": "%{y:.1%}", ",": "%{y:,.0f}"}.get(unit, "%{y:.4~g}")
    for metric, name, colour in wanted:
        points = [(r["step"], r[metric]) for r in records if metric in r]
        if not points:
            continue
        steps, values = map(list, zip(*points, strict=True))
        smooth = _trailing_mean(values)
        every_step = len(points) > len(records) / 2
        mode = "lines" if every_step and len(points) > 1 else "lines+markers"
        noisy = smooth != values
        figure.add_scatter(
            x=steps,
            y=values,
            name=name,
            mode=mode,
            opacity=0.35 if noisy else 1.0,
            line={"color": colour, "width": 1 if noisy else 2.25},
            marker={"size": 6},
            hovertemplate=hover,
        )
        if noisy:
            figure.add_scatter(
                x=steps,
                y=smooth,
                mode="lines",
                line={"color": colour, "width": 2.25},
                hoverinfo="skip",
            )
        legend.append((name, colour))
    if not legend:
        return None
    return Chart(title, caption, figure, legend if len(legend) > 1 else [])


def _trailing_mean(values: list[float]) -> list[float]:
    """The mean of the values up to each point: the last tenth of the series, 50 at most.

    A series of less than 20 values is returned as it is.
    """
    window = min(len(values) // 10, 50)
    if window < 2:
        return values
    sums = np.cumsum([0.0, *values])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    means: list[float] = ((sums[ends] - sums[starts]) / (ends - starts)).tolist()
    return means


def empty_figure(unit: str, records: Sequence[Record]) -> go.Figure:
    """An empty figure in the page's style, its x axis from the first to the last recorded step.

    `unit` is "%" for shares, "," for large counts, or "".
    """
    steps = [record["step"] for record in records] or [0]
    span = max(steps) - min(steps)
    margin = max(0.5, 0.02 * span)
    axis = {"showgrid": False, "zeroline": False, "fixedrange": True, "automargin": True}
    return go.Figure(
        layout={
            "template": "none",
            "font": {"size": 12, "color": "#5c6670"},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
            "showlegend": False,
            "hovermode": "x unified",
            "hoverlabel": {"bgcolor": "#ffffff", "bordercolor": PALE_GREY},
            # A finger on a chart scrolls the page.
            "dragmode": False,
            "xaxis": {
                **axis,
                "title": {"text": "step", "standoff": 6},
                "range": [min(steps) - margin, max(steps) + margin],
                "tickformat": ",d",
                "nticks": 7,
                # Left to itself a short axis gets ticks between the steps.
                "dtick": 1 if span < 6 else None,
            },
            "yaxis": {
                **axis,
                "showgrid": True,
                "gridcolor": "#e6e9ec",
                "nticks": 6,
                "rangemode": "tozero",
                "tickformat": {"%": ".2~%", ",": ",d"}.get(unit),
                "exponentformat": "power",
            },
        }
    )
