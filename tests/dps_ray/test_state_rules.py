"""Solve states of rewards that are more than right and wrong."""

import numpy as np
import pytest

from dps_ray.beliefs.state_rules import successes
from dps_ray.beliefs.states import PARTIAL, SOLVED, UNSOLVED, count_successes, observed, states_of
from dps_ray.config import StateSettings
from dps_ray.selection.methods import MoPPS, RateHMM, VarianceEMA

NAMES = {UNSOLVED: "unsolved", PARTIAL: "partial", SOLVED: "solved"}
NOTHING = np.zeros(4)  # accuracies, which these rules do not look at


def state(scores, accuracies=None, **rule):
    right = successes(
        scores, np.zeros(len(scores)) if accuracies is None else accuracies, StateSettings(**rule)
    )
    return NAMES[int(states_of(np.array([right]), np.array([len(scores)]))[0])]


def test_by_default_accuracy_decides_whatever_the_scores():
    rng = np.random.default_rng(0)
    for _ in range(50):
        accuracies = rng.choice([0.0, 0.5, 1.0], 4)
        assert (
            successes(rng.random(4), accuracies, StateSettings())
            == count_successes([accuracies])[0]
        )


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.9, 1.0, 1.2], "solved"),
        ([0.1, 0.0, -1.0], "unsolved"),
        ([0.9, 1.0, 0.8], "partial"),
        ([0.1, 0.0, 0.2], "partial"),
        ([0.0, 1.0, 1.0], "partial"),
        ([0.5, 0.5, 0.5], "solved"),  # equal, so nothing is to be learned: the nearer end
        ([0.4, 0.4, 0.4], "unsolved"),
        ([0.4], "unsolved"),
    ],
)
def test_thresholds_leave_to_partial_what_is_neither_all_good_nor_all_bad(scores, expected):
    assert state(scores, rule="thresholds", low=0.1, high=0.9) == expected


def test_a_format_bonus_makes_no_group_partial_once_low_says_what_it_is():
    assert state([0.0, 0.1, 0.1, 0.0], rule="thresholds") == "partial"
    assert state([0.0, 0.1, 0.1, 0.0], rule="thresholds", low=0.1) == "unsolved"


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.5, 0.54, 0.46], "solved"),
        ([0.5, 0.56, 0.44], "partial"),
        ([0.1, 0.12, 0.13], "unsolved"),
        ([0.99, 1.0, 0.98], "solved"),
        ([0.0, 0.0, 0.0, 0.11], "partial"),
        ([7.0, 7.0], "solved"),
        ([0.3], "unsolved"),
    ],
)
def test_variation_makes_a_group_partial_and_else_its_mean_decides(scores, expected):
    assert state(scores, rule="variation", least_std=0.05) == expected


def test_thresholds_on_right_and_wrong_are_the_rule_of_right():
    for right in range(5):
        scores = np.arange(4) < right
        as_dense = successes(scores, NOTHING, StateSettings(rule="thresholds"))
        assert as_dense == successes(scores, scores, StateSettings()) == right


def test_the_reward_may_have_any_scale():
    scores = np.array([3.0, -2.0, 1.0, 2.0])
    rule = StateSettings(rule="thresholds", low=-5.0, high=5.0)
    unit = StateSettings(rule="thresholds")
    assert successes(scores, NOTHING, rule) == successes((scores + 5) / 10, NOTHING, unit) == 2


@pytest.mark.parametrize("rule", ["thresholds", "variation"])
def test_counts_are_the_mean_reward_and_never_contradict_the_state(rule):
    rng = np.random.default_rng(1)
    settings = StateSettings(rule=rule, low=0.1, high=0.9)
    for _ in range(300):
        scores = np.clip(rng.normal(rng.uniform(-0.2, 1.2), rng.choice([0.01, 0.2]), 8), 0, 1)
        right = successes(scores, np.zeros(8), settings)
        if state(scores, rule=rule, low=0.1, high=0.9) == "partial":
            assert 1 <= right <= 7
            wanted = np.clip((scores.mean() - 0.1) / 0.8 * 8, 1, 7)
            assert abs(right - wanted) <= 0.5
        else:
            assert right in (0, 8)


def test_methods_that_learn_from_counts_learn_the_mean_of_a_dense_reward():
    scores = np.array([0.5, 0.7, 0.8, 1.0, 0.6, 0.9, 0.7, 0.8])  # mean .75: 6 of 8
    right = successes(scores, NOTHING, StateSettings(rule="thresholds"))
    seen = observed([3], [right], [8])
    mopps, ema, rate = MoPPS([3], decay=1), VarianceEMA([3], keep=0), RateHMM([3])
    for selector in (mopps, ema, rate):
        selector.observe(seen)
    assert mopps.parameters([3]).tolist() == [[7, 3]]
    assert ema.variances([3]) == pytest.approx(4 * 0.75 * 0.25)
    assert rate.predicted([3])[0].argmax() == PARTIAL


@pytest.mark.parametrize("scores", [[], [np.nan, 1.0], [np.inf], [[1.0]]])
def test_what_is_no_group_of_scores_is_refused(scores):
    with pytest.raises(ValueError, match="scores must be finite numbers"):
        successes(scores, NOTHING, StateSettings(rule="variation"))


def test_groups_that_were_counted_become_an_observation_sorted_by_id():
    seen = observed([7, 3, 5], [1, 0, 2], [2, 3, 2])
    assert seen.ids.tolist() == [3, 5, 7]
    assert seen.states.tolist() == [UNSOLVED, SOLVED, PARTIAL]
    with pytest.raises(ValueError, match="3 ids came with 2 groups"):
        observed([7, 3, 5], [1, 0], [2, 3])
