"""Which groups train under each baseline, with what advantages, and what long responses lose."""

import numpy as np
import pytest

from dps_ray.beliefs.beta_rates import group_states
from dps_ray.config import Config
from dps_ray.groups import Group, Response, ScoredGroup
from dps_ray.objective.advantages import group_advantages, leave_one_out_advantages
from dps_ray.objective.belief_baseline import belief_advantages
from dps_ray.weights import START
from pipelines.rollout.training_groups import shaped_scores, to_trajectories, training_groups

WRONG, MIXED, RIGHT = [0, 0, 0, 0], [1, 0, 0, 1], [1, 1, 1, 1]
NOTHING = (np.nan, np.nan, np.nan)


def scored(prompt_id, right, lengths=None, truncated=(), rounds=()):
    """A group of these accuracies; `truncated`: places of the responses that the limit ended."""
    accuracies = np.array(right, dtype=float)
    responses = [
        Response(
            np.arange(length, dtype=np.int32),
            np.full(length, -0.5, dtype=np.float32),
            "",
            place in truncated,
        )
        for place, length in enumerate(lengths or [3] * len(right))
    ]
    group = Group(prompt_id, np.array([7], dtype=np.int32), responses, START, rounds=rounds)
    successes = int(accuracies.sum())
    state = 0 if successes == 0 else 2 if successes == len(right) else 1
    return ScoredGroup(group, accuracies.copy(), accuracies, successes, state)


def config(objective, **settings):
    return Config(**{"rollout": {"group_size": 4}, "objective": objective, **settings})


def chosen(groups, objective, predicted=None, **settings):
    predicted = np.array([NOTHING] * len(groups) if predicted is None else predicted)
    return training_groups(groups, predicted, config(objective, **settings))


def ids(groups):
    return [group.prompt_id for group in groups]


def together(groups):
    return np.concatenate([group.advantages for group in groups])


BATCH = [scored(1, WRONG), scored(2, MIXED), scored(3, RIGHT), scored(4, MIXED)]


@pytest.mark.parametrize(
    "name", ["dr_grpo", "rloo", "reinforce_plus_plus_baseline", "gspo", "cispo"]
)
def test_against_their_group_only_groups_that_vary_train(name):
    assert ids(chosen(BATCH, {"name": name})) == [2, 4]


@pytest.mark.parametrize("name", ["reinforce_plus_plus", "ppo"])
def test_against_the_batch_or_a_critic_groups_all_alike_train_too(name):
    assert ids(chosen(BATCH, {"name": name})) == [1, 2, 3, 4]
    assert ids(chosen(BATCH, {"name": name, "train_on": "partial"})) == [2, 4]
    assert ids(chosen(BATCH, {"name": name}, loop={"filter_groups": True})) == [2, 4]


def test_the_batch_is_the_groups_that_train():
    groups = chosen(BATCH, {"name": "reinforce_plus_plus"}, loop={"batch_size": 3})
    assert ids(groups) == [1, 2, 3]
    # 6 of 12 are right: mean 1/2, sample deviation sqrt(12 / 4 / 11).
    found = together(groups)
    np.testing.assert_allclose(found[4:8] > 0, np.array(MIXED) == 1)
    np.testing.assert_allclose(np.abs(found), 0.5 / np.sqrt(3 / 11), rtol=1e-5)
    partial = chosen(BATCH, {"name": "reinforce_plus_plus"}, loop={"filter_groups": True})
    np.testing.assert_allclose(np.abs(together(partial)), 0.5 / np.sqrt(2 / 7), rtol=1e-5)


def test_a_batch_with_the_same_score_everywhere_teaches_nothing():
    assert chosen([scored(1, WRONG), scored(2, WRONG)], {"name": "reinforce_plus_plus"}) == []
    assert chosen([scored(1, WRONG)], {"name": "ppo"}) != []


def test_the_groups_mean_is_subtracted_before_the_batchs_deviation_divides():
    uneven = [scored(1, [1, 0, 0, 0]), scored(2, MIXED), scored(3, RIGHT)]
    found = together(chosen(uneven, {"name": "reinforce_plus_plus_baseline"}))
    centred = np.array([0.75, -0.25, -0.25, -0.25, 0.5, -0.5, -0.5, 0.5])
    np.testing.assert_allclose(found, centred / centred.std(ddof=1), rtol=1e-5)


def test_a_critic_is_given_the_scores():
    groups = chosen(BATCH, {"name": "ppo"})
    assert [group.advantages.tolist() for group in groups] == [WRONG, MIXED, RIGHT, MIXED]


def test_rloo_and_dr_grpo_are_not_divided():
    (rloo,) = chosen([scored(1, [1, 0, 0, 0])], {"name": "rloo"})
    np.testing.assert_allclose(rloo.advantages, [1, -1 / 3, -1 / 3, -1 / 3])
    (dr_grpo,) = chosen([scored(1, [1, 0, 0, 0])], {"name": "dr_grpo"})
    np.testing.assert_allclose(dr_grpo.advantages, [0.75, -0.25, -0.25, -0.25])


def test_rounds_are_known_to_leave_one_out():
    (found,) = chosen([scored(1, MIXED, rounds=(2, 2))], {"name": "rloo"})
    np.testing.assert_array_equal(
        found.advantages, leave_one_out_advantages(np.array(MIXED, dtype=float), (2, 2))
    )


A, B = np.array([1.0, 0.5, 9.0]), np.array([2.0, 3.0, 0.2])
PREDICTED = group_states(A, B, 4)


def shrunk(group, row):
    right = group.accuracies == 1
    return belief_advantages(group.scores, right, A[row], B[row], full=4, norm_by_std=False)


def test_the_belief_goes_with_undivided_advantages():
    groups = [scored(1, WRONG), scored(2, MIXED), scored(3, [1, 1, 1, 0])]
    found = chosen(groups, {"name": "rloo", "baseline": "belief"}, PREDICTED)
    assert ids(found) == [1, 2, 3]
    for row, group in enumerate(groups):
        np.testing.assert_allclose(found[row].advantages, shrunk(group, row), atol=1e-6)


def test_the_belief_goes_with_the_deviation_of_the_batch():
    groups = [scored(1, WRONG), scored(2, MIXED), scored(3, RIGHT)]  # the last was expected
    found = chosen(groups, {"name": "reinforce_plus_plus", "baseline": "belief"}, PREDICTED)
    assert ids(found) == [1, 2]
    plain = np.concatenate([shrunk(groups[0], 0), shrunk(groups[1], 1)])
    deviation = np.sqrt(np.square(plain).sum() / 7)
    np.testing.assert_allclose(together(found), plain / deviation, rtol=1e-5)


SHAPED = {"overlong_buffer": 20, "overlong_penalty": 0.4}
SHORT = {"rollout": {"group_size": 4, "max_response_length": 100}}


def test_long_responses_lose_score_and_nothing_else():
    group = scored(1, MIXED, lengths=[50, 90, 100, 100], truncated=(3,))
    shaped = shaped_scores(group, config(SHAPED, **SHORT))
    np.testing.assert_allclose(shaped, [1.0, -0.2, -0.4, 0.6])
    (found,) = chosen([group], SHAPED, **SHORT)
    np.testing.assert_array_equal(found.advantages, group_advantages(shaped))
    assert found.partial
    assert (group.scores == MIXED).all()


def test_a_group_all_right_trains_by_its_lengths_unless_only_partial_groups_do():
    group = scored(1, RIGHT, lengths=[50, 50, 50, 100])
    assert chosen([group], {}, **SHORT) == []
    (found,) = chosen([group], SHAPED, **SHORT)
    assert found.advantages[3] < 0
    assert not found.partial
    assert chosen([group], {**SHAPED, "train_on": "partial"}, **SHORT) == []


def test_truncated_responses_do_not_train_and_count_in_the_baseline():
    group = scored(1, [1, 0, 0, 1], lengths=[2, 3, 4, 5], truncated=(1,))
    (found,) = chosen([group], {"overlong_filter": True})
    (whole,) = chosen([group], {})
    np.testing.assert_array_equal(found.advantages, whole.advantages[[0, 2, 3]])
    trajectories = to_trajectories([found], config({}).objective, 1)
    assert trajectories.response_lengths.tolist() == [2, 4, 5]
    assert [len(tokens) for tokens in whole.tokens] == [2, 3, 4, 5]


def test_a_group_of_truncated_responses_does_not_train():
    group = scored(1, MIXED, truncated=(0, 1, 2, 3))
    assert chosen([group], {"overlong_filter": True}) == []
