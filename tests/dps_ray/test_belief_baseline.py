"""Advantages against a belief, by enumeration of all outcomes of a group."""

from itertools import product
from math import lgamma

import numpy as np
import pytest

from dps_ray.objective.belief_baseline import belief_advantages, expected_rates

BELIEFS = [(1.0, 1.0), (0.38, 0.38), (0.2, 3.0), (12.0, 4.0)]


def groups(rounds):
    """Every group that rounds can give when they stop at the first in which right and wrong have come: bool arrays, and
    how many rounds each had."""
    ends = np.cumsum(rounds)
    for sequence in product([False, True], repeat=int(ends[-1])):
        right = np.array(sequence)
        done = next(
            (count for count, end in enumerate(ends, 1) if 0 < right[:end].sum() < end), len(rounds)
        )
        if not right[ends[done - 1] :].any():  # once, not with everything that could have followed
            yield right[: ends[done - 1]], tuple(rounds[:done])


def probability(right, p):
    return np.prod(np.where(right, p, 1 - p))


def gradient(advantages, right, p):
    """Of the policy on the solve rate p, from one group, as a multiple of the gradient of p: the score function of
    a response is 1/p times that where it is right, and -1/(1 - p) times where it is wrong."""
    return float(np.sum(advantages * np.where(right, 1 / p, -1 / (1 - p))))


def expected(rounds, p, told=None):
    """The expectation of the gradient over all groups, and that of their number of responses.

    told: the rounds that the baseline is told of; None: the true ones.
    """
    total = size = 0.0
    for right, true in groups(rounds):
        advantages = belief_advantages(
            right.astype(float),
            right,
            *(0.6, 1.7),
            full=8,
            rounds=true if told is None else told,
            norm_by_std=False,
        )
        total += probability(right, p) * gradient(advantages, right, p)
        size += probability(right, p) * len(right)
    return total, size


@pytest.mark.parametrize("p", [0.03, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("rounds", [(2,), (8,), (2, 2, 4), (3, 1, 2), (4, 4)])
def test_every_response_has_the_gradient_of_the_solve_rate_for_its_expectation(rounds, p):
    total, size = expected(rounds, p)
    assert total == pytest.approx(size, rel=1e-12)


def test_a_baseline_that_uses_later_rounds_would_be_biased():
    total, size = expected((2, 2, 4), 0.3, told=())
    assert abs(total / size - 1) > 0.01


@pytest.mark.parametrize("rounds", [(8,), (2, 2, 4)])
def test_the_standard_deviation_weighs_prompts_and_turns_no_gradient_around(rounds):
    for p in (0.03, 0.3, 0.5, 0.9):
        total = sum(
            probability(right, p)
            * gradient(
                belief_advantages(right * 1.0, right, 0.6, 1.7, full=8, rounds=true), right, p
            )
            for right, true in groups(rounds)
        )
        assert total > 0


def beta_binomial(right, a, b):
    """P(these responses) for a rate that is Beta(a, b)."""
    s, n = int(right.sum()), len(right)
    logs = lgamma(a + s) + lgamma(b + n - s) - lgamma(a + b + n)
    return np.exp(logs - lgamma(a) - lgamma(b) + lgamma(a + b))


@pytest.mark.parametrize(("a", "b"), BELIEFS)
@pytest.mark.parametrize("n", [2, 4, 8])
def test_no_other_weight_of_the_group_has_a_smaller_variance(a, b, n):
    outcomes = [np.array(sequence) for sequence in product([False, True], repeat=n)]

    def square(baseline):
        return sum(
            beta_binomial(right, a, b) * np.square(right - baseline(right)).mean()
            for right in outcomes
        )

    def shrunk(weight):
        def baseline(right):
            others = (right.sum() - right) / (n - 1)
            return weight * others + (1 - weight) * a / (a + b)

        return baseline

    best = square(lambda right: expected_rates(right, a, b))
    weight = (n - 1) / (a + b + n - 1)
    assert best == pytest.approx(square(shrunk(weight)), rel=1e-12)
    for other in (0.0, weight - 0.05, weight + 0.05, 1.0):
        assert square(shrunk(other)) > best


@pytest.mark.parametrize(("a", "b"), BELIEFS)
@pytest.mark.parametrize("rounds", [(2,), (8,), (2, 2, 4)])
def test_divided_by_the_deviation_the_mean_square_is_at_most_one(a, b, rounds):
    total = size = 0.0
    for right, true in groups(rounds):
        weight = beta_binomial(right, a, b)
        advantages = belief_advantages(right * 1.0, right, a, b, full=8, rounds=true)
        total += weight * np.square(advantages).sum()
        size += weight * len(right)
    assert total / size <= 1 + 1e-12


def advantages(right, a, b, **options):
    right = np.array(right, dtype=bool)
    return belief_advantages(right * 1.0, right, a, b, **{"full": 8, **options})


def test_a_group_all_alike_teaches_as_much_as_it_surprises():
    alike = [True] * 4
    unsure, sure, wrong = (
        advantages(alike, *belief) for belief in ((0.5, 0.5), (80.0, 0.5), (1.0, 9.0))
    )
    assert (unsure > 0.1).all()
    assert (sure < 0.05).all()
    assert (wrong > unsure).all()
    assert (advantages([False] * 4, 9.0, 1.0) == -wrong).all()


def test_by_hand():
    # Beta(1, 1), one of two right. To the right one the other is wrong: 1/3. To the wrong one it is right: 2/3.
    found = advantages([True, False], 1.0, 1.0, norm_by_std=False)
    np.testing.assert_allclose(found, [2 / 3, -2 / 3])
    deviation = np.sqrt(2) / 3
    np.testing.assert_allclose(advantages([True, False], 1.0, 1.0), found / deviation)


def test_no_advantage_is_larger_than_the_root_of_the_full_size():
    assert advantages([True] + [False] * 7, 1e-3, 10.0)[0] < np.sqrt(8)


def test_a_sharp_belief_is_the_baseline_and_an_empty_one_is_the_mean_of_the_others():
    right = np.array([True, True, False, True])
    np.testing.assert_allclose(expected_rates(right, 3e9, 1e9), 0.75, rtol=1e-6)
    np.testing.assert_allclose(
        expected_rates(right, 1e-9, 1e-9), [2 / 3, 2 / 3, 1, 2 / 3], rtol=1e-6
    )


@pytest.mark.parametrize("rounds", [(), (1, 2, 1)])
def test_scores_from_low_to_high_have_the_advantages_of_0_and_1(rounds):
    right = np.array([True, False, False, True])
    plain = belief_advantages(right * 1.0, right, 2.0, 3.0, full=8, rounds=rounds)
    scaled = belief_advantages(
        np.where(right, 2.0, -1.0), right, 2.0, 3.0, full=8, rounds=rounds, low=-1.0, high=2.0
    )
    np.testing.assert_allclose(scaled, plain, rtol=1e-12)


@pytest.mark.parametrize("bonus", [0.1, -2.0])
def test_what_all_scores_have_besides_changes_nothing(bonus):
    right = np.array([True, False, False, True])
    plain = belief_advantages(right * 1.0, right, 2.0, 3.0, full=8)
    shifted = belief_advantages(right + bonus, right, 2.0, 3.0, full=8)
    np.testing.assert_allclose(shifted, plain, rtol=1e-12)


def test_a_bonus_that_one_response_has_is_compared_with_the_others():
    right = np.zeros(4, dtype=bool)
    scores = np.array([0.3, 0.0, 0.0, 0.0])
    found = belief_advantages(scores, right, 1.0, 9.0, full=8, norm_by_std=False)
    plain = belief_advantages(right * 1.0, right, 1.0, 9.0, full=8, norm_by_std=False)
    np.testing.assert_allclose(found - plain, [0.3, -0.1, -0.1, -0.1])


def test_rounds_that_do_not_make_the_group_are_an_error():
    with pytest.raises(ValueError, match=r"rounds of \(2, 2\) responses .* group of 3"):
        advantages([True, False, False], 1.0, 1.0, rounds=(2, 2))
