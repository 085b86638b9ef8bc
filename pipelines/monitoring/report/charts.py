"""The report's charts: recorded metrics in, one Plotly figure each out; None where nothing was recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipelines.monitoring.held_out import held_out_accuracy
from pipelines.monitoring.metrics import (
    CLIPPED,
    DUAL_CLIPPED,
    EFFECTIVE_RATIO,
    ENGINE_DIFFERENCE,
    ENTROPY,
    GRADIENT_NORM,
    IN_STEP,
    KL_REFERENCE,
    KL_STEP,
    LENGTH_CUT,
    LENGTH_MEAN,
    PHASE_SECONDS,
    PHASES,
    POLICY_LOSS,
    PREDICTION_ACCURACY,
    PREDICTION_F1,
    PREDICTION_PRECISION,
    PREDICTION_RECALL,
    REWARD_MEAN,
    SOLVED_SHARE,
    STEP_SECONDS,
    THROUGHPUT,
    UNIFORM_RATIO,
    UNSOLVED_SHARE,
)
from pipelines.monitoring.report.drawing import (
    BLUE,
    GREY,
    OCHRE,
    PALE_BLUE,
    PALE_GREY,
    PLUM,
    Chart,
    Record,
    curves,
    empty_figure,
)

_BAND = "rgba(53, 112, 158, 0.16)"
PHASE_COLOURS = {
    "select": PLUM,
    "generate": BLUE,
    "score": "#b39bbb",
    "observe": "#b5645c",
    "train": OCHRE,
    "publish": "#e3c27f",
    "probe": PALE_BLUE,
    "eval": "#5b8a72",
    "checkpoint": "#a9c6b2",
    "other": PALE_GREY,
}
# Beyond these the eye gains nothing and the page grows heavy.
_MOST_TIME_BARS = 100
_MOST_COUNT_BARS = 12
_MOST_MARKERS = 40

# Title, caption, (metric, name, colour) of its lines, unit.
_UPDATE = (
    (
        "Response length",
        "Tokens, the mean of a step. Drifting to the limit means rambling.",
        [(LENGTH_MEAN, "mean", BLUE)],
        "",
    ),
    (
        "Responses cut off",
        "Share that reached the length limit.",
        [(LENGTH_CUT, "cut off", BLUE)],
        "%",
    ),
    (
        "Entropy",
        "How undecided the policy is at a token. A fast fall to zero is a collapse.",
        [(ENTROPY, "entropy", BLUE)],
        "",
    ),
    (
        "Policy loss",
        "Hovers about zero by design; only its spikes mean something.",
        [(POLICY_LOSS, "loss", BLUE)],
        "",
    ),
    (
        "Gradient norm",
        "Before clipping. Steady is good.",
        [(GRADIENT_NORM, "norm", BLUE)],
        "",
    ),
    (
        "Ratio clipped",
        "Share of tokens whose probability ratio left the clip range, and of those held back by the dual clip.",
        [
            (CLIPPED, "clipped", BLUE),
            (DUAL_CLIPPED, "dual clip", OCHRE),
        ],
        "%",
    ),
    (
        "KL divergence",
        "How far the policy moved: within the step, and from the reference policy where there is one.",
        [
            (KL_STEP, "within the step", BLUE),
            (KL_REFERENCE, "from the reference", OCHRE),
        ],
        "",
    ),
    (
        "Engine against learner",
        "Mean difference of their log-probs of the same tokens. A jump means stale weights.",
        [(ENGINE_DIFFERENCE, "difference", BLUE)],
        "",
    ),
    (
        "Tokens a second",
        "What the engines generated, over the time of the whole step.",
        [(THROUGHPUT, "tokens/s", BLUE)],
        ",",
    ),
)


def accuracy(records: Sequence[Record]) -> Chart | None:
    evaluated = [(r["step"], a) for r in records if (a := held_out_accuracy(r))]
    if not evaluated:
        return None
    steps = [step for step, _ in evaluated]
    figure = empty_figure("%", records)
    for end, fill in (("low", None), ("high", "tonexty")):
        ends = [getattr(a, end) for _, a in evaluated]
        figure.add_scatter(
            x=steps,
            y=ends,
            mode="lines",
            line={"width": 0},
            fill=fill,
            fillcolor=_BAND,
            hoverinfo="skip",
        )
    intervals = [(a.low, a.high) for _, a in evaluated]
    # A band needs two evaluations; a bar shows the interval of one.
    spread = {
        "type": "data",
        "visible": len(evaluated) == 1,
        "array": [a.high - a.mean for _, a in evaluated],
        "arrayminus": [a.mean - a.low for _, a in evaluated],
    }
    figure.add_scatter(
        x=steps,
        y=[a.mean for _, a in evaluated],
        error_y=spread,
        customdata=intervals,
        mode="lines+markers" if len(evaluated) <= _MOST_MARKERS else "lines",
        line={"color": BLUE, "width": 2.5},
        marker={"size": 7},
        hovertemplate="%{y:.1%} (95% interval %{customdata[0]:.1%} to %{customdata[1]:.1%})<extra></extra>",
    )
    return Chart(
        "Accuracy on held-out prompts",
        "Prompts that are never trained on; the band is the 95% interval. Look for a last interval that lies "
        "clear of the first.",
        figure,
        [],
    )


def reward(records: Sequence[Record]) -> Chart | None:
    return curves(
        records,
        "Reward in the batch",
        "Mean over all responses of a step. It moves with the choice of prompts as well as with the policy: "
        "judge learning by the accuracy.",
        [(REWARD_MEAN, "reward", BLUE)],
        "",
    )


def effective_ratio(records: Sequence[Record]) -> Chart | None:
    return curves(
        records,
        "Effective ratio",
        "Share of groups with right and wrong responses, the only ones that give a gradient. The further the "
        "batch lies above a uniform draw, the more rollouts the choice of prompts saves.",
        [
            (EFFECTIVE_RATIO, "the batch", BLUE),
            (UNIFORM_RATIO, "prompts drawn uniformly", OCHRE),
        ],
        "%",
    )


def batch_states(records: Sequence[Record]) -> Chart | None:
    """Shares of unsolved, partial and solved groups, stacked to 100%."""
    names = (UNSOLVED_SHARE, EFFECTIVE_RATIO, SOLVED_SHARE)
    rows = [r for r in records if all(name in r for name in names)]
    if not rows:
        return None
    states = [
        ("unsolved", names[0], PALE_GREY),
        ("partial", names[1], BLUE),
        ("solved", names[2], PALE_BLUE),
    ]
    figure = empty_figure("%", records)
    for state, name, colour in states:
        figure.add_bar(
            x=[r["step"] for r in rows],
            y=[r[name] for r in rows],
            name=state,
            marker={"color": colour, "line": {"width": 0}},
            hovertemplate="%{y:.0%}",
        )
    figure.update_layout(barmode="stack", bargap=0, yaxis_range=[0, 1])
    return Chart(
        "What the batch was made of",
        "Groups by outcome. A growing solved share says that the pool runs out of prompts worth training on; a "
        "growing unsolved share, that the choice reaches for prompts still too hard.",
        figure,
        [(state, colour) for state, _, colour in states],
    )


def prediction_quality(records: Sequence[Record]) -> Chart | None:
    return curves(
        records,
        "Predicted against seen",
        "Precision: of the prompts predicted partial, how many were. Recall: of the partial ones, how many had "
        "been predicted. F1 joins the two. Accuracy counts all three states.",
        [
            (PREDICTION_PRECISION, "precision", BLUE),
            (PREDICTION_RECALL, "recall", OCHRE),
            (PREDICTION_F1, "F1", PLUM),
            (PREDICTION_ACCURACY, "accuracy", GREY),
        ],
        "%",
    )


def times_sampled(prompts: Mapping[str, int]) -> Chart | None:
    """`prompts` maps how often (as text) to how many prompts; many counts share bars of equal width."""
    if not prompts:
        return None
    most = max(map(int, prompts))
    width = max(1, -(-most // _MOST_COUNT_BARS))
    numbers = [0] * (1 + -(-most // width))
    for times, number in prompts.items():
        numbers[-(-int(times) // width)] += number
    # Bar 0 is "never"; bar i holds the counts from (i - 1) * width + 1 to i * width.
    labels = [
        str(i) if width == 1 or i == 0 else f"{(i - 1) * width + 1}–{i * width}"
        for i in range(len(numbers))
    ]
    figure = empty_figure(",", [])
    figure.add_bar(
        x=labels,
        y=numbers,
        text=[f"{number:,}" for number in numbers],
        textposition="outside",
        cliponaxis=False,
        marker={"color": [PALE_GREY if label == "0" else BLUE for label in labels]},
        hovertemplate="%{y:,} prompts<extra></extra>",
    )
    figure.update_xaxes(title_text="times rolled out", type="category", autorange=True)
    figure.update_layout(bargap=0.35, margin_t=24, hovermode="closest")
    never = numbers[0] / sum(numbers)
    return Chart(
        "Prompts by how often they were rolled out",
        f"{never:.0%} of the pool was never rolled out. A long tail to the right says that a few prompts stay "
        "partial for long and are trained on again and again.",
        figure,
        [],
    )


def update_charts(records: Sequence[Record]) -> list[Chart]:
    """Small charts of what the learner reports, in reading order."""
    drawn = [chart for row in _UPDATE if (chart := curves(records, *row))]
    for chart in drawn:
        chart.figure.update_xaxes(title_text=None)
    return drawn


def phase_times(records: Sequence[Record]) -> Chart | None:
    """Seconds a step by phase, stacked; long runs are averaged into at most 100 bars."""
    rows = [r for r in records if STEP_SECONDS in r]
    if not rows:
        return None
    seconds = {
        p: np.array([r.get(PHASE_SECONDS.format(phase=p), 0.0) for r in rows]) for p in PHASES
    }
    whole = np.array([r[STEP_SECONDS] for r in rows])
    seconds["other"] = np.maximum(whole - sum(seconds[p] for p in IN_STEP), 0.0)
    total = sum(float(s.sum()) for s in seconds.values())
    # The learner writes checkpoints; probe and evaluation are the engine's work.
    work = ("generate", "probe", "eval", "train", "checkpoint")
    own = 1 - sum(float(seconds[p].sum()) for p in work) / total if total else 0.0

    bins = np.array_split(np.arange(len(rows)), min(len(rows), _MOST_TIME_BARS))
    shown = {p: s for p, s in seconds.items() if s.sum() > 0.001 * total}
    figure = empty_figure("", records)
    for phase, values in shown.items():
        figure.add_bar(
            x=[rows[b[0]]["step"] for b in bins],
            y=[float(values[b].mean()) for b in bins],
            name=phase,
            marker={"color": PHASE_COLOURS[phase], "line": {"width": 0}},
            hovertemplate="%{y:.2f} s",
        )
    figure.update_layout(barmode="stack", bargap=0.15)
    figure.update_yaxes(ticksuffix=" s")
    return Chart(
        "Seconds a step",
        f"Engine and learner took {1 - own:.1%} of the time; choosing, scoring, beliefs, passing weights and "
        f"the rest of the system {own:.1%}. Parts under a thousandth are not drawn.",
        figure,
        [(phase, PHASE_COLOURS[phase]) for phase in shown],
    )
