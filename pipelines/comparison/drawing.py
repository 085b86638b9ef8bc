"""How the figures of a comparison look: a method has one colour and one kind of line in all of them, to be read
in print."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dps_ray.errors import ResourceError
from pipelines.comparison.rows import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMOOTH = 5  # steps that a smoothed line averages


class Style(NamedTuple):
    label: str
    colour: str
    dash: Any = "-"
    width: float = 1.6


STYLES = {
    "uniform": Style("uniform", "#8a939b"),
    "history_resampling": Style("HR", "#6b5d4f", (0, (1, 1))),
    "ds_published": Style("DS, published", "#7d4a06", (0, (4, 1, 1, 1)), width=2.0),
    "ds_4": Style("DS, cap 4", "#d9952b", (0, (4, 1.5))),
    "ds_10": Style("DS, cap 10", "#b8700f", width=2.0),
    "ds_10_k4": Style("DS, k = 4", "#e0b455"),
    "ds_10_rounds": Style("DS, rounds", "#c9a227", (0, (1, 1))),
    "dps": Style("DPS", "#1c5f9c", width=2.4),
    "dps_covered": Style("DPS, covered", "#6fa3d0", (0, (4, 1.5))),
    "dps_pooled": Style("DPS pooled", "#c22f2f", width=2.4),
    "dps_pooled_states": Style("DPS pooled, states", "#e08a84", (0, (4, 1.5))),
    "dps_pooled_k4": Style("DPS pooled, k = 4", "#8f1d3f", width=2.0),
    "dps_pooled_k2": Style("DPS pooled, k = 2", "#5a1230", (0, (1, 1))),
    "dps_pooled_rounds": Style("DPS pooled, rounds", "#e4573d", (0, (4, 1, 1, 1))),
    "dps_pooled_adaptive": Style("DPS pooled, adaptive", "#f08a24", (0, (4, 1.5))),
    "dps_pooled_refill": Style("DPS pooled, refilled", "#f08a24", width=2.4),
    "dps_pooled_belief": Style("DPS pooled, belief", "#d94f8c", (0, (4, 1.5))),
    "dps_pooled_replay": Style("DPS pooled, replay", "#a8574e", (0, (1, 1))),
    "mopps": Style("MoPPS", "#7a4f8a", (0, (4, 1, 1, 1))),
    "mapp": Style("MaPP", "#c0476b"),
    "variance_ema": Style("variance EMA", "#3b8a5c", (0, (4, 1.5))),
    "recency": Style("recency", "#25a3a3"),
    "greso": Style("GRESO", "#1c242c", (0, (1, 1))),
}
_OTHERS = ("#4477aa", "#ee6677", "#228833", "#aa3377", "#66a5c9", "#8c8230")
_STYLE: Any = {
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa3ab",
    "axes.labelcolor": "#3a444d",
    "axes.grid": True,
    "grid.color": "#e6e9ec",
    "grid.linewidth": 0.7,
    "xtick.color": "#5c6670",
    "ytick.color": "#5c6670",
    "legend.frameon": False,
    "savefig.dpi": 160,
    "svg.hashsalt": "dps_ray",  # the same numbers give the same file
}


class Drawn(NamedTuple):
    """A figure that was saved as `<name>.svg` and `<name>.png`; `svg` is the text of the former."""

    name: str
    title: str
    caption: str
    svg: str


@contextmanager
def matplotlib_set_up() -> Iterator[None]:
    try:
        import matplotlib
    except ImportError:
        raise ResourceError("matplotlib is not installed: run `pip install matplotlib`") from None
    matplotlib.use("Agg")
    with matplotlib.rc_context(_STYLE):
        yield


def save(figure: Any, name: str, title: str, caption: str, folder: Path) -> Drawn:
    figure.savefig(folder / f"{name}.png")
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"
    (folder / f"{name}.svg").write_text(svg)
    return Drawn(name, title, caption, svg)


def panels_of(
    rows: int,
    columns: int,
    size: tuple[float, float],
    *,
    rows_high: bool = False,
    sharey: bool = True,
) -> tuple["Figure", Any]:
    """Axes as an array (rows, columns); the size is that of the figure or, with `rows_high`, of a row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = size
    figure = Figure(
        figsize=(width, height * rows + 0.4 if rows_high else height), layout="constrained"
    )
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, sharey=sharey)


def styles_of(everything: Sequence[Row], rows: Sequence[Row]) -> dict[str, Style]:
    """The methods of these rows, in their order, each with the style it has among all."""
    colours = cycle(_OTHERS)
    names = dict.fromkeys(row.method for row in everything)
    styles = {name: STYLES.get(name) or Style(name, next(colours)) for name in names}
    here = {row.method for row in rows}
    return {name: style for name, style in styles.items() if name in here}


def label(method: str) -> str:
    return STYLES[method].label if method in STYLES else method


def seeds_of(rows: Sequence[Row]) -> list[int]:
    return list(dict.fromkeys(row.seed for row in rows))


def mean_by_step(rows: Sequence[Any], field: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps, ascending, and the field's mean over seeds at each."""
    by_step: dict[int, list[float]] = {}
    for row in rows:
        by_step.setdefault(row.step, []).append(getattr(row, field))
    steps = sorted(by_step)
    return np.array(steps), np.array([np.mean(by_step[step]) for step in steps])


def smooth(values: np.ndarray) -> np.ndarray:
    """Running mean over `SMOOTH` steps, over fewer at the ends."""
    kernel = np.ones(min(SMOOTH, len(values)))
    if not len(values):
        return values
    counts = np.convolve(np.ones(len(values)), kernel, "same")
    mean: np.ndarray = np.convolve(values, kernel, "same") / counts
    return mean


def line(style: Style) -> dict[str, Any]:
    return {"color": style.colour, "linestyle": style.dash, "linewidth": style.width}


def legend(figure: "Figure", names: dict[str, Style]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], **line(style), label=style.label) for style in names.values()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(names), 6))


def percent(panels: Sequence["Axes"]) -> None:
    for axes in panels:
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def thousands(value: float, _: Any) -> str:
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
