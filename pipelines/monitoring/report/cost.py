"""What a run's rollouts bought: accuracy against their number, group sizes, and what was off."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.monitoring.held_out import held_out_accuracy
from pipelines.monitoring.metrics import (
    GROUP_SIZE,
    ROLLOUTS_PER_MIXED_GROUP,
    SOLVED_SHARE,
    TOTAL_ROLLOUTS,
    TOTAL_TOKENS,
    UNSOLVED_SHARE,
    ZERO_VARIANCE,
)
from pipelines.monitoring.report.drawing import BLUE, OCHRE, Chart, Record, curves, empty_figure
from pipelines.monitoring.summary import percent

_LAST = 10  # steps that a remark is about
_MUCH = 0.4  # share of groups without variance that is worth a remark


def accuracy_by_cost(records: Sequence[Record], total: str) -> Chart | None:
    """Accuracy on held-out prompts over the rollouts or tokens spent until then.

    Args:
        total: TOTAL_ROLLOUTS or TOTAL_TOKENS.
    """
    spent, points = 0.0, []
    for record in records:
        spent = record.get(total, spent)
        if accuracy := held_out_accuracy(record):
            points.append((spent, accuracy.mean))
    if len(points) < 2:
        return None
    unit = {TOTAL_ROLLOUTS: "rollouts", TOTAL_TOKENS: "tokens"}[total]
    figure = empty_figure("%", records)
    x, y = map(list, zip(*points, strict=True))
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines+markers",
        line={"color": BLUE, "width": 2.5},
        marker={"size": 7},
        hovertemplate="%{y:.1%}",
    )
    margin = 0.02 * x[-1]
    figure.update_xaxes(
        title_text=unit, range=[-margin, x[-1] + margin], tickformat=".3~s", dtick=None
    )
    return Chart(
        f"Accuracy by {unit}",
        f"Held-out accuracy against the {unit} generated for training and probes until then.",
        figure,
        [],
    )


def group_sizes(records: Sequence[Record]) -> Chart | None:
    """Responses in a group, and rollouts for each partial group."""
    return curves(
        records,
        "Size and price of groups",
        "Mean responses of a group in each step, and rollouts so far for each partial group.",
        [
            (GROUP_SIZE, "responses in a group", BLUE),
            (ROLLOUTS_PER_MIXED_GROUP, "rollouts for a partial group", OCHRE),
        ],
        "",
    )


def remarks(records: Sequence[Record]) -> list[str]:
    """Sentences about what is off in the last steps; none if nothing is."""
    steps = [record for record in records if ZERO_VARIANCE in record][-_LAST:]
    if not steps:
        return []
    equal, wrong, right = (
        sum(step[name] for step in steps) / len(steps)
        for name in (ZERO_VARIANCE, UNSOLVED_SHARE, SOLVED_SHARE)
    )
    if equal < _MUCH:
        return []
    advice = "easier" if wrong > right else "harder"
    return [
        f"In the last {len(steps)} steps {percent(equal)} of the groups had no variance: {percent(wrong)} had no "
        f"right response, {percent(right)} had only right ones. Add {advice} prompts to the pool."
    ]
