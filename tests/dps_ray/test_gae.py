"""GAE by hand, and against the definition as a mean over estimates of k steps (arXiv 1506.02438, eq. 11 to 16)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dps_ray.objective.gae import explained_variance, token_estimates, whitened

shares = st.floats(0.0, 1.0)


def estimates(values, scores, lengths, **options):
    found = token_estimates(
        np.array(values, dtype=float), np.array(scores, dtype=float), np.array(lengths), **options
    )
    return found.advantages.tolist(), found.returns.tolist()


def test_without_discount_an_advantage_is_the_score_minus_the_value():
    advantages, returns = estimates([0.2, 0.5, 0.9, 0.4], [1.0, 0.0], [3, 1])
    assert advantages == pytest.approx([0.8, 0.5, 0.1, -0.4])
    assert returns == pytest.approx([1.0, 1.0, 1.0, 0.0])


def test_with_lambda_0_it_is_what_the_next_value_says():
    advantages, returns = estimates([0.2, 0.5, 0.9], [1.0], [3], lam=0.0, gamma=0.5)
    assert advantages == pytest.approx([0.25 - 0.2, 0.45 - 0.5, 1.0 - 0.9])
    assert returns == pytest.approx([0.25, 0.45, 1.0])


def test_by_hand_with_gamma_and_lambda():
    # deltas: 0.9 * 0.6 - 0.4 = 0.14 and 2.0 - 0.6 = 1.4; A_2 = 1.4, A_1 = 0.14 + 0.9 * 0.5 * 1.4 = 0.77
    advantages, returns = estimates([0.4, 0.6], [2.0], [2], gamma=0.9, lam=0.5)
    assert advantages == pytest.approx([0.77, 1.4])
    assert returns == pytest.approx([1.17, 2.0])


def by_definition(values, score, gamma, lam):
    """The advantages of one response: (1 - lam) sum_k lam^(k-1) A^(k), where from its end on all A^(k) are the same."""
    length, found = len(values), []
    for t in range(length):
        left = length - t
        of_steps = []
        for k in range(1, left + 1):
            ahead = gamma**k * values[t + k] if k < left else gamma ** (left - 1) * score
            of_steps.append(ahead - values[t])
        weights = [(1 - lam) * lam ** (k - 1) for k in range(1, left)] + [lam ** (left - 1)]
        found.append(sum(w * a for w, a in zip(weights, of_steps, strict=True)))
    return found


@given(
    responses=st.lists(
        st.tuples(st.lists(st.floats(-2, 2), min_size=1, max_size=9), st.floats(-1, 1)), max_size=5
    ),
    gamma=shares,
    lam=shares,
)
def test_every_response_of_a_batch_has_the_advantages_of_the_definition(responses, gamma, lam):
    values = [value for of_one, _ in responses for value in of_one]
    lengths = np.array([len(of_one) for of_one, _ in responses], dtype=np.int64)
    expected = [a for of_one, score in responses for a in by_definition(of_one, score, gamma, lam)]
    advantages, returns = estimates(
        values, [s for _, s in responses], lengths, gamma=gamma, lam=lam
    )
    assert advantages == pytest.approx(expected, abs=1e-9)
    assert returns == pytest.approx(np.add(expected, values), abs=1e-9)


@given(data=st.data(), gamma=shares, lam=shares)
def test_tokens_that_are_not_trained_are_as_if_they_were_not_there(data, gamma, lam):
    lengths = np.array([4, 1, 6])
    trained = np.array(data.draw(st.lists(st.booleans(), min_size=11, max_size=11)))
    values, scores = np.linspace(-1, 1, 11) ** 3, np.array([1.0, 0.5, -1.0])
    options = {"gamma": gamma, "lam": lam}
    left = [int(part.sum()) for part in np.split(trained, [4, 5])]
    expected, _ = estimates(values[trained], scores, left, **options)
    found = token_estimates(values, scores, lengths, trained=trained, **options)
    assert found.advantages[trained].tolist() == pytest.approx(expected)
    assert not found.advantages[~trained].any()
    assert not found.returns[~trained].any()


def test_whitened_advantages_have_mean_0_and_variance_1_over_the_tokens_that_count():
    advantages = np.array([1.0, 2.0, 3.0, 100.0])
    trained = np.array([True, True, True, False])
    np.testing.assert_allclose(whitened(advantages, trained), [-1, 0, 1, 0], atol=1e-7)
    np.testing.assert_allclose(whitened(advantages[:3]), [-1, 0, 1], atol=1e-7)


@pytest.mark.parametrize("advantages", [[], [3.0], [0.5, 0.5, 0.5]])
def test_without_differences_whitened_advantages_are_0(advantages):
    assert not whitened(np.array(advantages)).any()


def test_explained_variance_is_1_for_the_returns_0_for_a_constant_and_less_for_worse():
    returns = np.array([0.0, 1.0, 1.0, 0.0])
    assert explained_variance(returns + 3.0, returns) == 1.0
    assert explained_variance(np.full(4, 0.5), returns) == 0.0
    assert explained_variance(1.0 - returns, returns) == pytest.approx(1.0 - 1.0 / 0.25)
    assert explained_variance(returns / 2, returns) == pytest.approx(0.75)
    trained = np.array([True, True, False, False])
    assert explained_variance(np.array([0.0, 1.0, 9.0, 9.0]), returns, trained) == 1.0


def test_nothing_is_to_be_explained_where_all_returns_are_equal():
    assert explained_variance(np.array([1.0, 2.0]), np.array([1.0, 1.0])) is None
    assert explained_variance(np.empty(0), np.empty(0)) is None
