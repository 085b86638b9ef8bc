"""Advantages against the others of the group and against the batch: by hand, and against TRL's and verl's formulas."""

import numpy as np
import pytest
import torch

from dps_ray.objective.advantages import (
    group_advantages,
    leave_one_out_advantages,
    mean_of_others,
    over_batch,
)
from dps_ray.objective.belief_baseline import belief_advantages
from dps_ray.objective.overlong import overlong_penalties


def test_each_response_is_compared_with_the_mean_of_the_others():
    scores = np.array([1.0, 0.0, 0.5, 0.5])
    np.testing.assert_allclose(leave_one_out_advantages(scores), [2 / 3, -2 / 3, 0.0, 0.0])


@pytest.mark.parametrize("size", [2, 3, 8, 64])
def test_leave_one_out_is_the_formula_of_trl_and_of_verl(size):
    scores = np.random.default_rng(size).random(size)
    rewards = torch.from_numpy(scores)
    trl = rewards - (rewards.sum() - rewards) / (size - 1)
    verl = rewards * size / (size - 1) - rewards.mean() * size / (size - 1)
    found = leave_one_out_advantages(scores)
    np.testing.assert_allclose(found, trl)
    np.testing.assert_allclose(found, verl)


def test_leave_one_out_leaves_later_rounds_out_and_averages_equal_outcomes():
    scores = np.array([1.0, 0.0, 0.0, 1.0])
    # Alone, in its round and before: 1 - 0, 0 - 1, 0 - 2/3 of three others, 1 - 1/3.
    plain = scores - mean_of_others(scores, (2, 2))
    np.testing.assert_allclose(plain, [1.0, -1.0, -2 / 3, 2 / 3])
    found = leave_one_out_advantages(scores, (2, 2))
    np.testing.assert_allclose(found, [5 / 6, -5 / 6, -5 / 6, 5 / 6])


def test_an_empty_belief_is_leave_one_out():
    scores = np.array([1.0, 0.0, 0.0, 1.0, 1.0])
    found = belief_advantages(scores, scores == 1, 1e-9, 1e-9, full=5, norm_by_std=False)
    np.testing.assert_allclose(found, leave_one_out_advantages(scores), atol=1e-8)


def test_the_mean_and_deviation_of_the_batch_by_hand():
    groups = [np.array([1.0, 1.0]), np.array([0.0, 0.0])]
    # mean 1/2, sample deviation sqrt(4 / 4 / 3)
    one, other = over_batch(groups, centre=True, divide=True)
    np.testing.assert_allclose(one, np.full(2, 0.5 * np.sqrt(3)), rtol=1e-5)
    np.testing.assert_allclose(other, -one)
    plain, _ = over_batch(groups, centre=True, divide=False)
    np.testing.assert_allclose(plain, [0.5, 0.5])


def masked_whiten(values, mask):
    """verl's function of this name."""
    mean = (values * mask).sum() / mask.sum()
    variance = ((values - mean) ** 2 * mask).sum() / mask.sum()
    variance = variance * mask.sum() / (mask.sum() - 1)
    return (values - mean) * torch.rsqrt(variance + 1e-8)


@pytest.mark.parametrize("with_baseline", [False, True])
def test_reinforce_plus_plus_is_verls_where_responses_are_of_one_token(with_baseline):
    rng = np.random.default_rng(0)
    groups = [rng.random(size) for size in (8, 4, 2, 8)]
    index = torch.from_numpy(np.repeat(np.arange(4), [8, 4, 2, 8]))
    rewards = torch.from_numpy(np.concatenate(groups))
    if with_baseline:
        means = torch.stack([rewards[index == group].mean() for group in range(4)])
        rewards = rewards - means[index]
        groups = [group_advantages(group, norm_by_std=False) for group in groups]
    expected = masked_whiten(rewards[:, None], torch.ones(22, 1))[:, 0]
    found = over_batch(groups, centre=not with_baseline, divide=True)
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-5)


def test_a_batch_of_one_response_has_no_deviation():
    (found,) = over_batch([np.array([0.7])], centre=True, divide=True)
    assert found.tolist() == [0.0]


def test_the_penalty_falls_in_a_straight_line_over_the_buffer():
    lengths = np.array([1, 60, 70, 80, 100, 120])
    found = overlong_penalties(lengths, limit=100, buffer=40, penalty=0.5)
    np.testing.assert_allclose(found, [0, 0, -0.125, -0.25, -0.5, -0.5])


def test_the_penalty_is_verls():
    lengths = np.arange(1, 101)
    expected = [min(-(length - (100 - 30)) / 30 * 0.7, 0) for length in lengths]
    np.testing.assert_allclose(
        overlong_penalties(lengths, limit=100, buffer=30, penalty=0.7), expected
    )
