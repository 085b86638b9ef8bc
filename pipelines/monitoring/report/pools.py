"""The chart of when each pool worked: spans in, one Plotly figure out."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.monitoring.report.charts import PHASE_COLOURS
from pipelines.monitoring.report.drawing import Chart, empty_figure
from pipelines.monitoring.timeline import Span, busy_share, lanes

# What is still told apart on a screen, and what keeps the page light.
_MOST_STEPS = 20
_MOST_SPANS = 2000
_LANE_HEIGHT = 30


def when_pools_worked(spans: Sequence[Span]) -> Chart | None:
    """A bar for each span on its lane's row over the seconds, coloured by what it was; the end of a long run."""
    if not spans:
        return None
    steps = sorted({span.step for span in spans})
    recent = [span for span in spans if span.step in set(steps[-_MOST_STEPS:])]
    shown = sorted(recent, key=lambda span: span.ended)[-_MOST_SPANS:]
    zero, end = min(span.began for span in shown), shown[-1].ended
    rows = lanes(shown)

    figure = empty_figure("", [])
    kinds = dict.fromkeys(_kind(span) for span in sorted(shown, key=lambda span: span.began))
    for kind in kinds:
        drawn = [span for span in shown if _kind(span) == kind]
        figure.add_bar(
            orientation="h",
            y=[span.pool for span in drawn],
            base=[round(span.began - zero, 3) for span in drawn],
            x=[round(span.ended - span.began, 3) for span in drawn],
            name=kind,
            customdata=[
                (span.name, span.step, round(span.ended - span.began, 3)) for span in drawn
            ],
            marker={"color": PHASE_COLOURS[kind], "line": {"width": 0}},
            hovertemplate="%{customdata[0]}, step %{customdata[1]}: %{customdata[2]:.2f} s<extra></extra>",
        )
    figure.update_layout(
        barmode="overlay", bargap=0.3, hovermode="closest", height=70 + _LANE_HEIGHT * len(rows)
    )
    figure.update_xaxes(
        title_text="seconds",
        tickformat=None,
        range=[0, max(end - zero, 0.001)],
        dtick=None,
        showgrid=True,
        gridcolor="#e6e9ec",
    )
    figure.update_yaxes(
        type="category",
        categoryorder="array",
        categoryarray=rows,
        range=[len(rows) - 0.5, -0.5],
        nticks=None,
        dtick=1,
        rangemode=None,
        tickformat=None,
        showgrid=False,
    )
    return Chart(
        "Work of each actor over time",
        f"{_what_is_shown(shown, recent, steps)} {_how_busy(shown, zero, end)}",
        figure,
        [(kind, PHASE_COLOURS[kind]) for kind in kinds],
    )


def _kind(span: Span) -> str:
    return span.name if span.name in PHASE_COLOURS else "other"


def _what_is_shown(shown: Sequence[Span], recent: Sequence[Span], steps: Sequence[int]) -> str:
    if len(shown) < len(recent):
        return f"Only the last {len(shown):,} pieces of work are drawn, those of step {shown[0].step:,} and later."
    if len(steps) > _MOST_STEPS:
        return f"The last {_MOST_STEPS} of {len(steps):,} steps."
    return "The whole run."


def _how_busy(shown: Sequence[Span], began: float, ended: float) -> str:
    """Each pool's share of the time; a gap in its row is an actor that waits."""
    if not began < ended:
        return ""
    pools = dict.fromkeys(lane.partition("/")[0] for lane in lanes(shown))
    shares = [f"{pool} {busy_share(shown, pool, began, ended):.0%}" for pool in pools]
    return f"A gap is an actor that waits. At work: {', '.join(shares)} of this time."
