"""Whether rewards will vary: the closed forms against integration, and the selector on a continuous reward."""

import numpy as np
import pytest

from dps_ray import BeliefStore, UniformSelector, merge
from dps_ray.beliefs import moments
from dps_ray.beliefs.state_rules import successes
from dps_ray.beliefs.states import PARTIAL, Observation, observed
from dps_ray.config import StateSettings
from dps_ray.durable import Storage, read_snapshot, reshard, shard_file, write_snapshot
from dps_ray.hashing import shards
from dps_ray.selection.methods import RewardMoments

K, EPS = 8, 0.05
RULE = StateSettings(rule="variation", least_std=EPS)


def one(weight=0.0, mean=0.0, freedom=0.0, squares=0.0):
    return moments.Moments(*(np.array([x]) for x in (weight, mean, freedom, squares)))


@pytest.mark.parametrize("known", [one(), one(8, 0.3, 7, 7 * 0.04), one(5.6, 0.9, 4.9, 1e-4)])
@pytest.mark.parametrize("k", [2, 8, 64])
def test_the_chance_that_a_group_varies_is_that_over_all_variances(known, k):
    rng = np.random.default_rng(0)
    nu = moments.FREEDOM + known.freedom
    variances = (moments.FREEDOM * EPS**2 + known.squares) / rng.chisquare(nu, 200_000)
    samples = variances * rng.chisquare(k - 1, 200_000) / (k - 1)
    found = moments.group_states(known, k, EPS, 0.5)
    assert found[1, 0] == pytest.approx(np.mean(samples > EPS**2), abs=0.005)
    assert found.sum() == pytest.approx(1)


def test_two_groups_without_decay_are_one_of_all_their_rewards_but_for_where_their_means_lie():
    first, second = np.array([0.1, 0.5, 0.3]), np.array([0.9, 0.7])
    known = moments.nothing(1)
    for group in (first, second):
        told = (np.array([x]) for x in (float(len(group)), group.mean(), group.std(ddof=1)))
        known = moments.learn(known, *told)
    assert known.mean[0] == pytest.approx(np.concatenate([first, second]).mean())
    assert known.squares[0] == pytest.approx(first.var() * 3 + second.var() * 2)
    assert (known.weight[0], known.freedom[0]) == (5, 3)


def test_what_is_forgotten_is_as_if_it_had_never_been_seen():
    known = moments.forget(one(8, 0.9, 7, 0.5), np.array([1e-12]))
    np.testing.assert_allclose(
        moments.group_states(known, K, EPS, 0.5),
        moments.group_states(moments.nothing(1), K, EPS, 0.5),
        atol=1e-9,
    )


def test_rewards_all_alike_are_solved_or_unsolved_by_their_mean():
    for mean, state in ((0.9, 2), (0.1, 0)):
        found = moments.group_states(one(16, mean, 14, 0.0), K, EPS, 0.5)[:, 0]
        assert found.argmax() == state
        assert found[1] < 0.01
    many = moments.group_states(one(1e9, 0.5, 1e9, 1e9), K, EPS, 0.5)
    assert np.isfinite(many).all()


# --- the selector ----------------------------------------------------------------------------------


class Pool:
    """Prompts whose rewards in [0, 1] deviate by .01 to .3 within a group, by more or less as training goes on."""

    def __init__(self, prompts=600, seed=0):
        self.rng = np.random.default_rng(seed)
        self.mean = self.rng.uniform(0.1, 0.9, prompts)
        self.log_std = self.rng.uniform(np.log(0.01), np.log(0.3), prompts)

    def answer(self, ids):
        std = np.exp(self.log_std[ids, None])
        found = self.rng.normal(self.mean[ids, None], std, (len(ids), K))
        moved = self.log_std + self.rng.normal(0, 0.1, len(self.log_std))
        self.log_std = np.clip(moved, np.log(0.01), np.log(0.3))
        return np.clip(found, 0, 1)


def observation_of(ids, scores):
    right = [successes(group, np.zeros(K), RULE) for group in scores]
    return observed(ids, right, [K] * len(ids), scores.mean(axis=1), scores.std(axis=1, ddof=1))


def observe(selector, seen, whole=None):
    selector.observe(seen, whole)


def follow(selector, seed, steps=40, batch=64):
    """From step 10 on: the share of partial groups, and the log loss of what was predicted of each."""
    pool, shares, losses = Pool(2000, seed), [], []
    for _ in range(steps):
        selection = selector.select(batch)
        seen = observation_of(selection.ids, pool.answer(selection.ids))
        predicted = selection.predicted[np.argsort(selection.ids)]
        observe(selector, seen)
        shares.append(np.mean(seen.states == PARTIAL))
        losses.append(-np.log(predicted[np.arange(batch), seen.states]).mean())
    return np.mean(shares[10:]), np.mean(losses[10:])


def test_on_a_continuous_reward_it_finds_what_varies_and_says_so_better_than_three_states():
    ids = np.arange(2000)
    rewards = [follow(RewardMoments(ids, seed=s), s) for s in range(3)]
    states = [follow(BeliefStore(ids, seed=s), s) for s in range(3)]
    chance = np.mean([follow(UniformSelector(ids, seed=s), s)[0] for s in range(3)])
    assert np.mean(rewards, axis=0)[0] > np.mean(states, axis=0)[0] > 1.5 * chance
    assert np.mean(rewards, axis=0)[1] < 0.5 * np.mean(states, axis=0)[1]


def test_a_prompt_that_varied_comes_before_new_ones_and_those_before_one_that_did_not():
    selector = RewardMoments(np.arange(10))
    scores = np.array([np.linspace(0, 1, K), np.full(K, 0.7)])
    observe(selector, observation_of([3, 5], scores))
    order = selector.select(10).ids.tolist()
    assert order[0] == 3
    assert order[-1] == 5
    assert selector.predicted([5])[0].argmax() == 2
    for _ in range(60):
        observe(selector, observed([], [], [], [], []))
    np.testing.assert_allclose(*selector.predicted([3, 4])[:, 1], atol=1e-6)


@pytest.mark.parametrize(("count", "restart"), [(1, 1), (2, 7), (7, 3)])
def test_selections_are_bit_equal_for_any_number_of_shards_and_over_a_restart(
    count, restart, tmp_path
):
    ids, storage = np.arange(600), Storage.at(tmp_path)

    def split(count):
        return [ids[shards(ids, count) == shard] for shard in range(count)]

    parts = [RewardMoments(mine, seed=1) for mine in split(count)]
    single, pool = RewardMoments(ids, seed=1), Pool()
    for step in range(12):
        if step == 6:
            kept = [
                read_snapshot(
                    storage, write_snapshot(storage, shard_file(i, count), each.snapshot())
                )
                for i, each in enumerate(parts)
            ]
            parts = [RewardMoments(mine, seed=1) for mine in split(restart)]
            for part, snapshot in zip(parts, reshard(kept, restart), strict=True):
                part.load_state(snapshot)
        batch = merge([each.select(min(32, len(each))) for each in parts], 32)
        for field, expected in zip(batch, single.select(32), strict=True):
            np.testing.assert_array_equal(field, expected)
        seen = observation_of(batch.ids, pool.answer(batch.ids))
        observe(single, seen)
        homes = shards(seen.ids, len(parts))
        for shard, each in enumerate(parts):
            observe(each, seen.take(homes == shard), whole=seen)


def test_without_the_rewards_it_refuses_and_changes_nothing():
    selector = RewardMoments(np.arange(10))
    with pytest.raises(ValueError, match="was not told the rewards"):
        selector.observe(Observation([3], [1], [4], [K]))
    assert selector.step == 0
    selector.observe(Observation([], [], [], []))
    assert selector.step == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"decay": 2}, "decay"), ({"group_size": 1}, "never varies"), ({"least_std": 0}, "least_std")],
)
def test_settings_out_of_range_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        RewardMoments([1], **arguments)
