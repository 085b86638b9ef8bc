"""Beta beliefs read off predicted states, against enumeration over all outcomes."""

from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dps_ray.beliefs.beta_rates import BetaRates, group_states

SIZES = [2, 3, 4, 8, 16, 64]


def rates(*pairs):
    a, b = np.array(pairs, dtype=float).T
    return BetaRates(a, b, np.ones(len(a), dtype=bool))


def beta_binomial(a, b, n):
    """P(s right of n) for s = 0 .. n, response by response."""
    chance = np.zeros(n + 1)
    for path in product((0, 1), repeat=n):
        probability, right = 1.0, 0
        for i, response in enumerate(path):
            probability *= (a + right if response else b + i - right) / (a + b + i)
            right += response
        chance[right] += probability
    return chance


@pytest.mark.parametrize("k", SIZES)
def test_a_belief_is_found_again_from_the_states_it_predicts(k):
    rng = np.random.default_rng(k)
    size, mean = np.exp(rng.uniform(-6, 6, 2000)), 1 / (1 + np.exp(-rng.uniform(-6, 6, 2000)))
    a, b = size * mean, size * (1 - mean)
    states = group_states(a, b, k)
    seen = (states[:, 0] > 1e-8) & (states[:, 2] > 1e-8)
    found = BetaRates.of_predicted(states[seen], k)
    np.testing.assert_allclose(found.a, a[seen], rtol=1e-8)
    np.testing.assert_allclose(found.b, b[seen], rtol=1e-8)
    assert found.known.all()


@pytest.mark.parametrize("k", SIZES)
def test_groups_have_the_predicted_states_wherever_a_belief_can_predict_them(k):
    predicted = np.random.default_rng(k).dirichlet([0.5, 0.5, 0.5], 2000)
    found = BetaRates.of_predicted(predicted, k)
    unsolved, solved = np.clip(predicted[:, [0, 2]], 1e-9, 1).T
    possible = unsolved ** (1 / k) + solved ** (1 / k) >= 1
    states = group_states(found.a, found.b, k)
    np.testing.assert_allclose(states[possible], predicted[possible], atol=5e-6)
    # More often mixed than any rate: the rate is certain, and is the one nearest in its odds.
    certain = 1 / (1 + (unsolved / solved) ** (1 / k))
    np.testing.assert_allclose(found.mean[~possible], certain[~possible], atol=1e-5)
    assert np.all(found.variance[~possible] < 1e-6)


def test_certain_predictions_give_finite_beliefs():
    predicted = [[0, 0, 1], [1, 0, 0], [0, 1, 0], [0.5, 0, 0.5], [0, 0.5, 0.5], [1 / 3] * 3]
    found = BetaRates.of_predicted(predicted, 8)
    for parameter in (found.a, found.b):
        assert np.all((parameter > 0) & np.isfinite(parameter))
    np.testing.assert_allclose(found.mean[[0, 1, 2, 3, 5]], [1, 0, 0.5, 0.5, 0.5], atol=1e-6)


def test_a_prompt_that_is_not_predicted_has_a_flat_belief_that_is_marked():
    found = BetaRates.of_predicted([[np.nan] * 3, [0.2, 0.5, 0.3]], 8)
    assert found.known.tolist() == [False, True]
    assert (found.a[0], found.b[0]) == (1, 1)


def test_a_belief_does_not_depend_on_the_prompts_beside_it():
    predicted = np.random.default_rng(0).dirichlet([1, 1, 1], 101)
    together = BetaRates.of_predicted(predicted, 8)
    for row in (0, 7, 100):
        alone = BetaRates.of_predicted(predicted[[row]], 8)
        assert (alone.a[0], alone.b[0]) == (together.a[row], together.b[row])
    part = BetaRates.of_predicted(predicted[3:20], 8)
    assert np.array_equal(part.a, together.a[3:20])


@pytest.mark.parametrize(
    ("predicted", "k", "says"),
    [
        ([[0.2, 0.5, 0.3]], 1, "k=2"),
        ([0.2, 0.5, 0.3], 8, r"\(n, 3\)"),
        ([[0.2, 0.5, 0.1]], 8, "sum to 1"),
        ([[-0.2, 0.9, 0.3]], 8, "sum to 1"),
    ],
)
def test_what_is_no_prediction_is_refused(predicted, k, says):
    with pytest.raises(ValueError, match=says):
        BetaRates.of_predicted(predicted, k)


def test_mean_and_variance_are_those_of_the_beta_distribution():
    p = (np.arange(200_000) + 0.5) / 200_000
    for a, b in ((2, 5), (1, 1), (3.5, 2)):
        weight = p ** (a - 1) * (1 - p) ** (b - 1)
        weight /= weight.sum()
        known = rates((a, b))
        assert known.mean[0] == pytest.approx(p @ weight, rel=1e-6)
        assert known.variance[0] == pytest.approx((p - known.mean[0]) ** 2 @ weight, rel=1e-4)


@pytest.mark.parametrize(("a", "b"), [(0.38, 0.38), (0.1, 2), (5, 1), (1, 1)])
@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_group_states_equal_the_enumeration_of_all_outcomes(a, b, size):
    chance = beta_binomial(a, b, size)
    expected = [chance[0], chance[1:size].sum(), chance[size]]
    np.testing.assert_allclose(
        group_states(np.array([a]), np.array([b]), size)[0], expected, atol=1e-14
    )
    mixed = group_states(np.array([a, a]), np.array([b, b]), np.array([size, 2]))
    np.testing.assert_allclose(mixed[0], expected, atol=1e-14)


@given(
    a=st.floats(0.05, 20), b=st.floats(0.05, 20), before=st.integers(0, 5), more=st.integers(0, 5)
)
def test_the_chance_of_mixed_is_that_of_all_outcomes_given_what_came_so_far(a, b, before, more):
    known = rates((a, b))
    both = beta_binomial(a, b, before + more)
    for right in range(before + 1):
        # P(s right of all | `right` of the first so many), of the ways to have s in all.
        given_first = np.array(
            [
                both[s] * comb(before, right) * comb(more, s - right) / comb(before + more, s)
                if 0 <= s - right <= more
                else 0
                for s in range(before + more + 1)
            ]
        )
        expected = given_first[1:-1].sum() / given_first.sum() if before + more else 0
        chance = known.chance_mixed(more, right, before)[0]
        assert chance == pytest.approx(expected, abs=1e-9)


def test_an_updated_belief_is_the_posterior_and_keeps_what_is_known():
    before = BetaRates(np.array([1.0, 2.0]), np.array([1.0, 0.5]), np.array([True, False]))
    after = before.updated([0, 3], [4, 4])
    assert after.a.tolist() == [1, 5]
    assert after.b.tolist() == [5, 1.5]
    assert after.known.tolist() == [True, False]
    assert after.take(np.array([1])).a.tolist() == [5]
