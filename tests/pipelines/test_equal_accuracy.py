"""Accuracy over cost, and what methods take to reach Dynamic Sampling's."""

import numpy as np
import pytest

from pipelines.comparison.equal_accuracy import (
    SHARES,
    at_equal_accuracy,
    at_equal_rollouts,
    jackknife,
    strongest,
)
from pipelines.comparison.equal_table import equal_table, markdown
from pipelines.comparison.figures import equal_accuracy
from pipelines.comparison.rows import Numbers, Point, Total
from pipelines.monitoring.accuracy_curve import fitted, mean_points


def test_a_curve_that_rises_is_kept_and_interpolated():
    curve = fitted([0, 100, 300], [0.2, 0.4, 0.5])
    assert curve.cost_to(0.3) == pytest.approx(50)
    assert curve.cost_to(0.45) == pytest.approx(200)
    assert curve.cost_to(0.1) == 0
    assert curve.cost_to(0.51) is None
    assert curve.at(200) == pytest.approx(0.45)
    assert curve.at(301) is None


def test_a_lucky_evaluation_does_not_reach_the_target_before_the_others():
    curve = fitted([0, 100, 200, 300, 400], [0.2, 0.5, 0.3, 0.4, 0.6])
    assert curve.costs.tolist() == [0, 200, 400]
    assert curve.accuracies.tolist() == pytest.approx([0.2, 0.4, 0.6])
    assert curve.cost_to(0.5) == pytest.approx(300)


def test_a_fit_reaches_the_last_evaluation_and_is_flat_after_its_last_point():
    curve = fitted([0, 100, 200, 300], [0.2, 0.6, 0.62, 0.58])
    assert curve.cost_to(0.58) < 200
    assert curve.cost_to(0.6) == pytest.approx(200)
    assert curve.at(300) == pytest.approx(0.6)
    equal = [0.1 + 0.2, 0.3, 0.3]
    assert fitted([0, 1, 2], equal).cost_to(0.3) is not None


def test_the_fit_comes_nearer_to_the_true_share_than_the_first_crossing():
    def truth(cost, pace):
        return 0.23 + 0.45 * (1 - np.exp(-cost / pace))

    rng = np.random.default_rng(0)
    slow, fast = np.linspace(0, 30_000, 7), np.linspace(0, 15_000, 13)
    found = []
    for _ in range(300):
        theirs = truth(slow, 12_000) + rng.normal(0, 0.01, 7)
        ours = truth(fast, 0.35 * 12_000) + rng.normal(0, 0.01, 13)
        taken, base = (
            fitted(*curve).cost_to(theirs[-1]) for curve in ((fast, ours), (slow, theirs))
        )
        if taken is not None:
            found.append(taken / base)
    assert np.median(found) == pytest.approx(0.35, abs=0.02)


def points(method, seed, accuracies, rollouts=100):
    """A point a step. Each costs `rollouts`, and a rollout 20 tokens."""
    return [
        Point(method, seed, step, rollouts * step, 20 * rollouts * step, 0.0, None, accuracy)
        for step, accuracy in enumerate(accuracies)
    ]


def test_the_mean_curve_is_over_the_seeds_where_all_were_evaluated():
    seeds = [
        points("dps", 0, [0.2, None, 0.5, 0.9]),
        points("dps", 1, [0.4, None, 0.7]),
    ]
    assert mean_points(seeds) == [(0, pytest.approx(0.3)), (200, pytest.approx(0.6))]
    assert mean_points(seeds, "tokens")[1] == (4_000, pytest.approx(0.6))


SLOW, FAST, NEVER = [0.2, 0.3, 0.4, 0.5, 0.6], [0.2, 0.4, 0.6, 0.7], [0.2, 0.3, 0.35]
CURVES = [
    *points("ds", 0, SLOW),
    *points("ds", 1, [0.2, 0.3, 0.4, 0.5, 0.7]),
    *points("weak", 0, [0.2, 0.4, 0.5], rollouts=200),
    *points("fast", 0, FAST),
    *points("fast", 1, [0.2, 0.4, 0.5, 0.6]),
    *points("never", 0, NEVER),
]


def rows_of(curves=CURVES, references=("ds", "weak")):
    found = at_equal_accuracy(curves, references)
    return {(row.method, row.reference, row.cost): row for row in found}


def test_every_method_is_measured_by_the_accuracy_of_each_dynamic_sampling():
    rows = rows_of()
    fast = rows["fast", "ds", "rollouts"]
    # The target is (.6 + .7) / 2, which the mean curve of `fast`, .2 .4 .55 .65, reaches at its end.
    assert fast.target == pytest.approx(0.65)
    assert fast.taken == pytest.approx(300)
    assert fast.share == pytest.approx(300 / 400)
    assert rows["fast", "ds", "tokens"].taken == pytest.approx(20 * 300)
    assert rows["fast", "weak", "rollouts"].share == pytest.approx(500 / 3 / 400)
    assert rows["ds", "ds", "rollouts"].share == 1
    never = rows["never", "ds", "rollouts"]
    assert (never.taken, never.share, never.reached, never.median, never.least) == (
        None,
        None,
        0,
        None,
        None,
    )


def test_each_seed_reaches_the_mean_target_or_does_not():
    fast = rows_of()["fast", "ds", "rollouts"]
    assert (fast.reached, fast.seeds) == (1, 2)
    assert (fast.least, fast.median, fast.most) == (pytest.approx(250), None, None)
    weak = rows_of()["fast", "weak", "rollouts"]
    assert (weak.reached, weak.least, weak.most) == (2, pytest.approx(150), pytest.approx(200))
    assert weak.median == pytest.approx(175)


def test_the_error_of_a_share_is_the_jackknife_over_the_seeds_of_both():
    ours = [points("a", 0, [0.0, 0.5, 1.0]), points("a", 1, [0.0, 1.0, 1.5])]
    theirs = [points("b", seed, [0.0, 0.5, 1.0], rollouts=200) for seed in (0, 1)]
    # Without one of ours: 100 of 400 or 200 of 400. Without one of theirs: the same.
    assert jackknife(ours, theirs, "rollouts") == pytest.approx(np.std([0.25, 0.5]))
    assert jackknife(ours[:1], theirs, "rollouts") is None
    never = [points("a", 0, NEVER), points("a", 1, [0.0, 0.9, 1.8])]
    assert jackknife(never, theirs, "rollouts") is None


def test_accuracy_is_told_for_shares_of_all_rollouts_of_dynamic_sampling():
    rows = {(row.method, row.share): row for row in at_equal_rollouts(CURVES, ["ds"])}
    assert [rows["fast", share].rollouts for share in SHARES] == [100, 120, 200]
    assert rows["fast", 0.25].accuracy == pytest.approx(0.4)
    assert rows["fast", 0.25].error == pytest.approx(0)
    assert rows["fast", 0.5].accuracy == pytest.approx(0.55)
    assert rows["fast", 0.5].error == pytest.approx(0.05)
    assert rows["never", 0.5].accuracy == pytest.approx(0.35)
    assert rows["never", 0.5].error is None
    behind = [*points("ds", 0, SLOW), *points("short", 0, [0.2, 0.3])]
    last = at_equal_rollouts(behind, ["ds"])[-1]
    assert (last.method, last.share, last.accuracy) == ("short", 0.5, None)


def test_the_strongest_dynamic_sampling_is_the_one_with_the_highest_accuracy_in_the_end():
    assert strongest(CURVES, ["weak", "ds"]) == "ds"
    assert strongest(CURVES, []) is None
    assert strongest([*points("ds", 0, [None, None])], ["ds"]) is None


def compared():
    totals = [
        Total(method, seed, 0.5, 1, 1, 1.0, 0.5, 1, 0.0)
        for method, seed in dict.fromkeys((point.method, point.seed) for point in CURVES)
    ]
    return Numbers(
        curves=CURVES,
        runs=totals,
        equal_accuracy=at_equal_accuracy(CURVES, ["ds", "weak"]),
        equal_rollouts=at_equal_rollouts(CURVES, ["ds", "weak"]),
    )


def test_the_table_at_equal_accuracy_has_a_column_for_each_dynamic_sampling_and_share():
    header, *rows = equal_table(compared(), "ds")
    assert len(header) == 1 + 2 * 2 + len(SHARES)
    by = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert by["ds"]["rollouts, of ds's"] == "100% (400)"
    assert by["fast"]["rollouts, of weak's"] == "42% (167; seeds 150 to 200)"
    assert by["fast"]["rollouts, of ds's"].startswith("75%")
    assert by["fast"]["rollouts, of ds's"].endswith("seeds 250 to never)")
    assert by["never"]["rollouts, of ds's"] == "not reached (0 of 1 seeds)"
    assert by["fast"]["accuracy at 50% of ds's rollouts"] == "55.0% ± 5.0"
    assert equal_table(Numbers(), None) == []
    assert markdown([]) == ""


def test_the_figure_has_a_bar_for_each_method_whether_it_gets_there_or_not():
    (axes,) = equal_accuracy(compared()).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ds", "weak", "fast", "never"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([400, 400, 300, 200])
    words = [text.get_text() for text in axes.texts]
    assert words[2].startswith(" 75%")
    assert words[3] == " not reached: 35.0% with 200"
    assert equal_accuracy(Numbers(curves=points("ds", 0, SLOW))) is None
