"""Which groups of a batch train, with what advantages, and what the learner is given."""

import numpy as np
import pytest

from dps_ray.beliefs.beta_rates import group_states
from dps_ray.config import Config
from dps_ray.errors import ConfigError, EngineError
from dps_ray.groups import Group, Response, ScoredGroup
from dps_ray.objective.advantages import group_advantages
from dps_ray.weights import START
from pipelines.rollout.batch import Batch
from pipelines.rollout.probe import probe_of
from pipelines.rollout.training_groups import share_of_batch, to_trajectories, training_groups

NOTHING = (np.nan, np.nan, np.nan)


def scored(prompt_id, right, bonus=0.0, rounds=(), images=()):
    """A group of these accuracies. Its first response has `bonus` more."""
    accuracies = np.array(right, dtype=float)
    scores = accuracies.copy()
    scores[0] += bonus
    responses = [
        Response(
            np.arange(i + 1, dtype=np.int32), np.full(i + 1, -0.5, dtype=np.float32), "", False
        )
        for i in range(len(right))
    ]
    group = Group(
        prompt_id, np.array([7, prompt_id], dtype=np.int32), responses, START, rounds=rounds
    )
    successes = int(accuracies.sum())
    state = 0 if successes == 0 else 2 if successes == len(right) else 1
    return ScoredGroup(group, scores, accuracies, successes, state, images)


def config(**settings):
    return Config(**{"rollout": {"group_size": 8}, **settings})


def chosen(groups, predicted=None, **settings):
    predicted = np.array([NOTHING] * len(groups) if predicted is None else predicted)
    return training_groups(groups, predicted, config(**settings))


def ids(groups):
    return [group.prompt_id for group in groups]


WRONG, MIXED, RIGHT = [0, 0, 0, 0], [1, 0, 0, 1], [1, 1, 1, 1]


def test_groups_whose_scores_differ_train_in_order_up_to_the_batch_size():
    groups = [
        scored(1, WRONG),
        scored(2, MIXED),
        scored(3, RIGHT),
        scored(4, MIXED),
        scored(5, MIXED),
    ]
    assert ids(chosen(groups)) == [2, 4, 5]
    assert ids(chosen(groups, loop={"batch_size": 2})) == [2, 4]


@pytest.mark.parametrize(
    "settings", [{"objective": {"train_on": "partial"}}, {"loop": {"filter_groups": True}}]
)
def test_a_wrong_group_with_a_bonus_for_the_format_trains_unless_only_partial_ones_do(settings):
    groups = [scored(1, WRONG, bonus=0.1), scored(2, MIXED)]
    assert ids(chosen(groups)) == [1, 2]
    assert ids(chosen(groups, **settings)) == [2]


def test_full_groups_have_the_advantages_of_grpo_to_the_bit():
    group = scored(1, [1, 0, 0, 1, 0, 0, 0, 0], bonus=0.3)
    for norm_by_std in (True, False):
        (found,) = chosen([group], objective={"norm_by_std": norm_by_std})
        expected = group_advantages(group.scores, norm_by_std=norm_by_std)
        assert (found.advantages == expected).all()


@pytest.mark.parametrize("size", [2, 3, 5, 8, 17, 64])
def test_groups_of_all_sizes_train_together(size):
    small, large = chosen(
        [scored(1, [1] + [0] * (size - 1)), scored(2, [1] * 32 + [0] * 32)],
        rollout={"group_size": 64},
    )
    assert np.square(small.advantages).mean() == pytest.approx(63 / 64, rel=1e-4)
    assert np.square(large.advantages).mean() == pytest.approx(63 / 64, rel=1e-4)
    trajectories = to_trajectories([small, large], config().objective, 64)
    assert len(trajectories.advantages) == size + 64


BELIEF = {"objective": {"baseline": "belief"}}


def predictions(*beliefs):
    """What groups of 8 are predicted to be where rates are Beta(a, b)."""
    a, b = np.array(beliefs).T
    return group_states(a, b, 8)


def test_a_group_all_alike_trains_where_the_belief_was_unsure():
    groups = [scored(1, WRONG), scored(2, WRONG), scored(3, RIGHT), scored(4, MIXED)]
    predicted = predictions((0.5, 0.5), (0.02, 3.0), (0.5, 0.5), (0.5, 0.5))
    found = chosen(groups, predicted, **BELIEF)
    assert ids(found) == [1, 3, 4]
    assert (found[0].advantages < 0).all()
    assert (found[1].advantages > 0).all()


def test_a_prompt_without_a_prediction_is_compared_with_its_group():
    groups = [scored(1, WRONG), scored(2, MIXED)]
    (found,) = chosen(groups, **BELIEF)
    (plain,) = chosen(groups)
    assert found.prompt_id == 2
    assert (found.advantages == plain.advantages).all()


def test_rounds_of_a_group_are_known_to_its_baseline():
    predicted = predictions((1.0, 1.0))
    right = [1, 1, 1, 0]
    (at_once,) = chosen([scored(1, right)], predicted, **BELIEF)
    (in_rounds,) = chosen([scored(1, right, rounds=(2, 2))], predicted, **BELIEF)
    assert not np.allclose(at_once.advantages, in_rounds.advantages)


def test_the_belief_is_no_baseline_for_scores_without_right_and_wrong():
    with pytest.raises(ConfigError, match=r"states\.rule=right or objective\.baseline=group"):
        config(**BELIEF, states={"rule": "variation"})


def test_the_mean_over_the_batch_scales_by_the_groups_that_train():
    groups = chosen([scored(1, MIXED), scored(2, MIXED)])
    plain = to_trajectories(groups, config().objective, 8)
    over_batch = to_trajectories(
        groups, config(objective={"normalize_by": "batch_size"}).objective, 8
    )
    np.testing.assert_allclose(over_batch.advantages, plain.advantages / 4)


@pytest.mark.parametrize(
    ("sizes", "others", "batch_size", "share"),
    [
        ([8] * 3, [8] * 13, 16, 3 / 16),
        ([8] * 3, [8] * 10, 16, 3 / 16),  # three groups failed
        ([2, 2], [8, 8], 4, 4 / 20),  # all responses of the batch, as in verl
        ([2, 2], [8], 4, 4 / 20),
        ([2, 4], [], 4, 1 / 2),
        ([2, 4, 8], [8, 8], 3, 1),  # Dynamic Sampling has filled its batch
        ([2, 4, 8, 2], [8, 8], 3, 1),  # one of them trains again
    ],
)
def test_the_mean_over_the_batch_counts_responses_where_groups_have_several_sizes(
    sizes, others, batch_size, share
):
    assert share_of_batch(sizes, others, batch_size) == share


def test_a_batch_knows_the_sizes_of_the_groups_that_do_not_train():
    batch = Batch(scored=[scored(1, WRONG), scored(2, [1, 0]), scored(3, RIGHT * 2)])
    assert batch.sizes_without({2}) == [4, 8]
    groups = chosen(batch.scored)
    over_batch = config(objective={"normalize_by": "batch_size"}).objective
    found = to_trajectories(groups, over_batch, 3, batch.sizes_without({2}))
    np.testing.assert_allclose(found.advantages, groups[0].advantages * 2 / 14)


def test_a_probe_is_charged_what_was_generated():
    found = probe_of([scored(1, MIXED), EngineError("lost"), scored(2, RIGHT)], generated=10)
    assert (found.rollouts, found.partial) == (10, 0.5)


def test_empty_responses_are_left_out_and_images_go_along():
    group = scored(1, MIXED, images=(b"one", b"two"))
    empty = group.group.responses[0]._replace(
        tokens=np.empty(0, dtype=np.int32), logprobs=np.empty(0, dtype=np.float32)
    )
    group.group.responses[0] = empty
    trajectories = to_trajectories(chosen([group]), config().objective, 8)
    assert trajectories.response_lengths.tolist() == [2, 3, 4]
    assert trajectories.images.counts.tolist() == [2, 2, 2]
    assert trajectories.images.files.tobytes() == b"onetwo"


def test_a_batch_says_how_large_its_groups_are_and_how_many_have_no_variance():
    batch = Batch(
        scored=[scored(1, [0, 0]), scored(2, [1, 0]), scored(3, [0] * 8, bonus=0.1)],
        _predicted=[np.array(NOTHING)] * 3,
    )
    metrics = batch.metrics()
    assert metrics["frac_reward_zero_std"] == pytest.approx(1 / 3)
    assert metrics["rollout/group_size_mean"] == 4.0


def test_with_ppo_all_groups_train_and_the_learner_is_given_their_scores():
    groups = [scored(1, WRONG), scored(2, MIXED, bonus=0.5), scored(3, RIGHT)]
    found = chosen(groups, objective={"name": "ppo"})
    assert ids(found) == [1, 2, 3]
    trajectories = to_trajectories(found, config(objective={"name": "ppo"}).objective, 3)
    assert trajectories.scores.tolist() == [0, 0, 0, 0, 1.5, 0, 0, 1, 1, 1, 1, 1]
    assert not trajectories.advantages.any()
    only_partial = {"objective": {"name": "ppo"}, "loop": {"filter_groups": True}}
    assert ids(chosen(groups, **only_partial)) == [2]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"learner": {"critic": {"lr": 1e-4, "clip": 0.2}}},
            r"learner.critic.lr=0.0001, learner.critic.clip=0.2 and objective.name=grpo: only ppo",
        ),
        ({"objective": {"name": "ppo", "baseline": "belief"}}, "baseline=belief: ppo and no other"),
        ({"objective": {"name": "ppo", "normalize_by": "batch_size"}}, "normalize_by=batch_size"),
    ],
)
def test_settings_at_odds_with_ppo_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        config(**settings)
