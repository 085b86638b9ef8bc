"""The store as a whole, on the simulated learner and on prompts whose rates are known."""

import numpy as np
import pytest

from dps_ray import UniformSelector
from dps_ray.beliefs.states import Observation
from dps_ray.selection.pooled import PooledStore, number_within
from pipelines.simulation.model import REAL, Student, World, simulate

K, BATCH = 8, 16
PROMPTS, STEPS = 3_300, 60


def store(clusters, seed, prompts=PROMPTS, **settings):
    labels = {
        "topics": World.of(prompts, seed).topic,
        "random": np.random.default_rng([seed, 9]).integers(20, size=prompts),
        "one": None,
    }[clusters]
    ids = np.arange(prompts)
    return PooledStore(ids, number_within(ids, labels, seed), seed, **settings)


def accuracies(make, seeds=6):
    constants = REAL._replace(rate=0.16)
    outcomes = [
        simulate(make(seed), steps=STEPS, batch_size=BATCH, seed=seed, constants=constants)
        for seed in range(seeds)
    ]
    return np.array([outcome.accuracy[-1] for outcome in outcomes])


@pytest.mark.slow
@pytest.mark.parametrize("observation", ["states", "counts"])
def test_known_kinds_teach_more_than_uniform_and_random_ones_not_less_than_none(observation):
    def of(clusters):
        return accuracies(lambda seed: store(clusters, seed, observation=observation))

    uniform = accuracies(lambda seed: UniformSelector(np.arange(PROMPTS), seed))
    topics, random, one = of("topics"), of("random"), of("one")
    gain = topics - uniform
    assert gain.mean() > 0.04
    assert gain.mean() > 4 * gain.std(ddof=1) / np.sqrt(len(gain))
    lost = one - random
    assert lost.mean() < 2 * lost.std(ddof=1) / np.sqrt(len(lost)) + 0.005


@pytest.mark.parametrize(("observation", "bias"), [("states", 0.05), ("counts", 0.08)])
def test_what_is_believed_of_prompts_never_tried_is_what_a_uniform_probe_of_them_finds(
    observation, bias
):
    """Selection chooses clusters by what it believes of them, and is right about them all the same."""
    off, probed, believed = [], [], []
    for seed in range(4):
        world = World.of(20_000, seed)
        student, rng = Student(world, REAL._replace(rate=0.02)), np.random.default_rng(seed)
        selector = store("topics", seed, 20_000, observation=observation)
        for step in range(80):
            ids = selector.select(64).ids
            right = rng.binomial(K, student.success(ids))
            states = np.select([right == 0, right == K], [0, 2], 1)
            selector.observe(Observation(ids, states, right, np.full(len(ids), K)))
            useful = np.flatnonzero(states == 1)
            student.train(ids[useful], right[useful] / K)
            if step >= 30 and step % 10 == 0:
                never = np.flatnonzero(selector.times_sampled(np.arange(20_000)) == 0)
                probe = rng.choice(never, 2_000, replace=False)
                found = rng.binomial(K, student.success(probe))
                probed.append(np.mean((found > 0) & (found < K)))
                predicted = selector.predicted(probe)[:, 1]
                believed.append(predicted.mean())
                # And among those that would be chosen, where selection would find its own mistakes.
                chosen = selector.select(64)
                rate = student.success(chosen.ids)
                off.append(chosen.predicted[:, 1].mean() - np.mean(1 - rate**K - (1 - rate) ** K))
    assert abs(np.mean(np.subtract(believed, probed))) < bias
    assert abs(np.mean(off)) < bias


def test_a_prompt_never_tried_has_the_belief_of_its_cluster_and_one_tried_its_own():
    ids = np.arange(40)
    selector = PooledStore(ids, number_within(ids, ids % 2, 0), strength=30.0)
    for step in range(6):
        selector.observe(Observation(ids[4 * step : 4 * step + 4], [1, 0, 1, 2]))
    predicted = selector.predicted(ids)
    assert predicted.sum(axis=1) == pytest.approx(np.ones(40))
    assert len(np.unique(predicted[24:].round(12), axis=0)) == 2
    even, odd = predicted[24], predicted[25]
    assert even[1] > 0.7 > odd[1]
    assert odd[[0, 2]].min() > odd[1] / 2
    assert predicted[20][1] == pytest.approx(0.9)  # seen partial in the last step


def test_a_prompt_waits_again_when_it_was_tried_long_ago():
    ids = np.arange(30)
    selector = PooledStore(ids, rest=0)
    selector.observe(Observation(ids[:10], np.ones(10)))
    assert selector.metrics()["beliefs/active_rows"] == 10
    for _ in range(60):
        selector.observe(Observation([], []))
    assert selector.metrics() == {"beliefs/active_rows": 0, "beliefs/prompts_seen": 10}
    np.testing.assert_array_equal(selector.predicted(ids[:1]), selector.predicted(ids[20:21]))
    assert set(selector.select(30).ids) == set(ids)


def test_in_a_pool_larger_than_what_is_recent_nobody_is_used_up_twice_before_all_were_once():
    """Some rollouts fail; the end of a lap and the beginning of the next share a batch."""
    ids, rng = np.arange(503), np.random.default_rng(0)
    selector = PooledStore(ids, number_within(ids, ids % 3, 0), rest=0, max_uses=1)
    for _ in range(220):
        times, batch = selector.times_sampled(ids), selector.select(8).ids
        others = np.setdiff1d(ids, batch)
        assert times[batch].max() <= times[others].min()
        done = batch[rng.random(8) < 0.9]
        selector.observe(Observation(done, np.where(done % 2, 1, rng.integers(3, size=len(done)))))
    assert selector.times_sampled(ids).min() == 3


def test_by_default_half_of_a_small_pool_is_left_to_choose_from():
    ids = np.arange(60)
    selector, batches = PooledStore(ids), []
    for _ in range(12):
        batches.append(set(selector.select(10).ids))
        selector.observe(Observation(list(batches[-1]), np.ones(10)))
    assert all(not batches[i] & (batches[i - 1] | batches[i - 2]) for i in range(2, 12))
    assert any(batches[i] & batches[i - 4] for i in range(6, 12))


def test_rows_are_those_of_the_last_dozens_of_steps_however_long_a_run_is():
    ids, rng = np.arange(2_000), np.random.default_rng(0)
    selector, rows = PooledStore(ids), []
    for _ in range(200):
        chosen = selector.select(8).ids
        selector.observe(Observation(chosen, rng.integers(3, size=8)))
        rows.append(selector.metrics()["beliefs/active_rows"])
    assert max(rows) <= 8 * 50
    assert rows[-1] > 8 * 40


@pytest.mark.parametrize(
    ("everywhere", "named"),
    [
        (lambda o: o._replace(clusters=np.array([0, 9])), "prompt 1 is number 0 of cluster 9"),
        (lambda o: o._replace(ranks=np.array([10, 0])), "prompt 0 is number 10 of cluster 0"),
        (lambda o: o.take([0]), "other prompts of this shard"),
        (
            lambda o: o.take([0, 1, 1])._replace(ids=np.array([0, 1, 99]), clusters=None),
            "without clusters, and prompt 99",
        ),
    ],
)
def test_a_whole_step_that_cannot_be_right_is_refused_and_changes_nothing(everywhere, named):
    ids = np.arange(20)
    selector = PooledStore(ids, number_within(ids, ids % 2, 0))
    whole = Observation(
        ids[:2],
        np.array([1, 0], np.int8),
        np.array([4, 0]),
        np.array([8, 8]),
        clusters=np.array([0, 1]),
        ranks=np.array([3, 0]),
    )
    before = selector.select(20).ids.tolist()
    with pytest.raises(ValueError, match=named):
        selector.observe(Observation(ids[:2], [1, 0]), everywhere(whole))
    assert selector.select(20).ids.tolist() == before
    assert selector.step == 0


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"temperature": 0.0}, r"temperature=0\.0: it must be above 0"),
        ({"cluster_decay": 1.5}, r"cluster_decay=1\.5"),
        ({"rest": -1}, "rest=-1"),
        ({"max_uses": 0}, "max_uses=0"),
        ({"observation": "scores"}, "observation='scores'"),
        ({"clusters": number_within([1, 2], None, 0)}, "3 ids came with the clusters of 2"),
    ],
)
def test_settings_out_of_range_are_named(settings, named):
    with pytest.raises(ValueError, match=named):
        PooledStore([1, 2, 3], **settings)
