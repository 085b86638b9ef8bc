import tracemalloc
from itertools import combinations

import numpy as np
import pytest

from pipelines.rollout.accuracy import draws, estimate, measures, pass_at


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_m_is_the_share_of_all_choices_of_m_responses_that_hold_a_right_one(n):
    for m in range(1, n + 1):
        for c in range(n + 1):
            right = [True] * c + [False] * (n - c)
            expected = np.mean([any(chosen) for chosen in combinations(right, m)])
            assert pass_at(np.array([c]), n, m)[0] == pytest.approx(expected, abs=1e-15)


def test_pass_at_m_of_few_responses_has_no_bias():
    # Over many prompts of the same success rate the mean is 1 - (1 - p) ** m, which that of
    # 1 - (1 - c / n) ** m is not.
    rng = np.random.default_rng(0)
    n, m, p = 8, 4, 0.15
    successes = rng.binomial(n, p, size=200_000)
    truth = 1 - (1 - p) ** m
    assert pass_at(successes, n, m).mean() == pytest.approx(truth, abs=0.003)
    assert (1 - (1 - successes / n) ** m).mean() < truth - 0.02


def test_pass_at_more_than_there_are_is_refused():
    for m in (0, 5):
        with pytest.raises(ValueError, match=f"pass@{m} needs m from 1 to the 4 responses"):
            pass_at(np.array([1]), 4, m)


def test_pass_at_m_stays_exact_for_many_responses():
    found = pass_at(np.array([0, 1, 1000, 2000]), 2000, 1000)
    assert found == pytest.approx([0, 0.5, 1, 1], abs=1e-12)


def test_the_numbers_of_draws_are_powers_of_two_and_all():
    assert draws(1) == [1]
    assert draws(2) == [1, 2]
    assert draws(12) == [1, 2, 4, 8, 12]
    assert draws(16) == [1, 2, 4, 8, 16]


def test_partial_credit_counts_for_the_mean_and_is_no_pass():
    found = measures(np.array([[0.5, 0.5], [1.0, 0.0]]))
    assert list(found) == ["mean@2", "pass@1", "pass@2"]
    assert found["mean@2"].tolist() == [0.5, 0.5]
    assert found["pass@1"].tolist() == [0.0, 0.5]
    assert found["pass@2"].tolist() == [0.0, 1.0]


def test_the_average_over_test_sets_gives_each_the_same_weight():
    small, large = np.array([1.0, 0.0]), np.full(100, 0.25)
    assert estimate([small, large]).value == pytest.approx((0.5 + 0.25) / 2)
    assert estimate([np.concatenate([small, large])]).value == pytest.approx(26 / 102)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    truths, hits, sets = (0.3, 0.6), 0, 400
    for _ in range(sets):
        # Prompts differ in difficulty, and answers by chance.
        values = [
            rng.binomial(4, rng.beta(2 * p / (1 - p), 2, size=size)) / 4
            for p, size in zip(truths, (60, 150), strict=True)
        ]
        found = estimate(values)
        assert found.low <= found.value <= found.high
        hits += found.low <= np.mean(truths) <= found.high
    assert 0.92 <= hits / sets <= 0.98


def test_the_interval_of_an_average_is_as_wide_as_its_parts_make_it():
    rng = np.random.default_rng(2)
    sets = [rng.binomial(16, 0.4, size=size) / 16 for size in (30, 80, 500)]
    half = [(e.high - e.low) / 2 for e in (estimate([values]) for values in sets)]
    found = estimate(sets)
    # Independent errors add in squares.
    assert (found.high - found.low) / 2 == pytest.approx(
        np.sqrt(np.square(half).sum()) / 3, rel=0.1
    )


def test_partial_credit_on_many_prompts_takes_no_more_memory_than_a_few(monkeypatch):
    values = np.random.default_rng(4).random(300)
    at_once = estimate([values])
    monkeypatch.setattr("pipelines.rollout.accuracy._AT_ONCE", 300 * 7)
    in_parts = estimate([values])
    assert in_parts == pytest.approx(at_once, rel=1e-12)
    tracemalloc.start()
    estimate([values])
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2000 * 300 * 8 / 10  # of all that is drawn, a tenth


def test_the_same_answers_give_the_same_interval():
    values = np.random.default_rng(3).random(50)
    assert estimate([values]) == estimate([values])
