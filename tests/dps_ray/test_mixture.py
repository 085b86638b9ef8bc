"""Sources with weights: how much each gives, and that shards, restarts and new sources make no difference."""

from collections import Counter

import numpy as np
import pytest

from dps_ray import UniformSelector, merge
from dps_ray.beliefs.states import Observation
from dps_ray.selection.mixture import Mixture, quotas
from tests.dps_ray.shards_in_process import (
    BATCH,
    IDS,
    METHODS,
    SOURCES,
    VARIANTS,
    WEIGHTS,
    Shards,
    assert_equal,
    config_of,
    failed,
    found_of,
    population_of,
)

PLENTY = np.full(3, 10**6)


def counts(batch, population):
    """How many prompts of a batch are of each source."""
    rows = population.rows(batch.ids)
    return np.bincount(population.sources(rows), minlength=population.count)


def times_sampled(run):
    total = Counter()
    for mixture in run.mixtures:
        total.update(mixture.times_sampled())
    return total


# --- quotas --------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [(0.5, 0.2, 0.3), (1.0, 0.0, 0.0), (0.999, 0.0005, 0.0005)])
@pytest.mark.parametrize("size", [0, 1, 7, 256])
def test_quotas_fill_the_batch_and_are_within_one_of_their_weights(weights, size):
    weights = np.array(weights)
    for step in range(200):
        given = quotas(weights, size, PLENTY, seed=3, step=step)
        assert given.sum() == size
        assert np.all(np.abs(given - weights * size) < 1 + 1e-9)
        assert not given[weights == 0].any()


def test_quotas_are_equal_to_the_weights_on_average():
    weights, size, steps = np.array([0.55, 0.13, 0.32]), 10, 4000
    given = sum(quotas(weights, size, PLENTY, seed=0, step=step) for step in range(steps))
    # The standard deviation of a quota is at most 1/2.
    assert np.all(np.abs(given - steps * weights * size) < 4 * 0.5 * steps**0.5)


def test_a_source_with_too_few_prompts_gives_all_and_the_others_fill_in_by_their_weights():
    weights = np.array([0.5, 0.4, 0.1])
    for step in range(50):
        given = quotas(weights, 100, np.array([10, 1000, 1000]), seed=1, step=step)
        assert given[0] == 10
        assert abs(given[1] - (40 + 40 * 0.8)) <= 2
        assert given.sum() == 100
    assert quotas(weights, 100, np.array([10, 0, 5]), seed=1, step=0).tolist() == [10, 0, 5]


def test_a_source_without_weight_gives_only_what_the_others_cannot():
    weights = np.array([1.0, 0.0])
    assert quotas(weights, 8, np.array([5, 9]), seed=0, step=1).tolist() == [5, 3]


# --- selection -----------------------------------------------------------------------------------


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
def test_a_weighted_mix_keeps_its_shares_for_any_number_of_shards(overrides):
    config, steps = config_of(overrides), 25
    one, three = (Shards(config, population_of(config), count) for count in (1, 3))
    batches = one.run(steps)
    for mine, other in zip(three.run(steps), batches, strict=True):
        assert_equal(mine, other)
    by_step = np.array([counts(batch, one.population) for batch in batches])
    expected = BATCH * np.array(WEIGHTS)
    assert np.all(by_step.sum(axis=1) == BATCH)
    assert np.all(np.abs(by_step - expected) < 1)
    assert np.all(np.abs(by_step.sum(axis=0) - steps * expected) < 4 * 0.5 * steps**0.5)
    assert times_sampled(one) == times_sampled(three)


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
def test_a_mix_is_resumed_bit_equal_with_another_number_of_shards(overrides, tmp_path):
    config = config_of(overrides)
    undisturbed = Shards(config, population_of(config), 1)
    batches = undisturbed.run(16)
    run, found = Shards(config, population_of(config), 3), []
    for count in (2, 5):
        found += run.run(4)
        run = run.resumed(tmp_path / str(count), count)
    found += run.run(8)
    for mine, other in zip(found, batches, strict=True):
        assert_equal(mine, other)
    assert times_sampled(run) == times_sampled(undisturbed)


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
def test_each_source_learns_as_if_it_were_alone(overrides):
    config = config_of(overrides)
    mixed = Shards(config, population_of(config), 2)
    batches = mixed.run(10)
    for source in range(3):
        alone = Shards(config, population_of(config, None, IDS[source == SOURCES]), 1)
        for step, batch in enumerate(batches):
            mine = np.sort(
                batch.ids[mixed.population.sources(mixed.population.rows(batch.ids)) == source]
            )
            alone.observe(found_of(mine[~failed(mine, step)], step))
        (theirs,) = alone.mixtures[0].select(BATCH)
        ours = merge([mixture.select(BATCH)[source] for mixture in mixed.mixtures], BATCH)
        assert_equal(ours, theirs)


def test_an_exhausted_source_leaves_its_place_to_the_others():
    config = config_of(["method=uniform"])
    sources = np.where(SOURCES == 1, 0, SOURCES)
    sources[:2] = 1  # only two prompts
    runs = [Shards(config, population_of(config, sources=sources), n) for n in (1, 3)]
    for first, second in zip(*(run.run(5) for run in runs), strict=True):
        assert_equal(first, second)
        given = counts(first, runs[0].population)
        assert given[1] == 2
        assert given.sum() == BATCH


def test_a_batch_is_the_best_first_whatever_the_source():
    config = config_of(["method=dps"])
    run = Shards(config, population_of(config), 2)
    run.run(6)
    batch = run.select(BATCH)
    assert_equal(batch, batch.ranked())
    assert len(set(counts(batch, run.population))) > 1


# --- snapshots -----------------------------------------------------------------------------------


def test_the_snapshot_of_one_source_is_that_of_its_selector():
    config = config_of(["method=dps"])
    run = Shards(config, population_of(config, None), 1)
    run.run(3)
    (mixture,) = run.mixtures
    ours, theirs = mixture.snapshot(), mixture.selectors[0].snapshot()
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])


@pytest.mark.parametrize("overrides", METHODS.values(), ids=METHODS)
def test_a_source_that_is_added_starts_as_never_seen_and_changes_no_other(overrides, tmp_path):
    config = config_of(overrides)
    two = SOURCES < 2
    before = Shards(config, population_of(config, (0.6, 0.4), IDS[two], SOURCES[two]), 2)
    before.run(5)
    after = before.resumed(tmp_path, 3, population_of(config))
    for source in range(2):
        ours, theirs = (
            merge([m.select(BATCH)[source] for m in run.mixtures], BATCH) for run in (after, before)
        )
        assert_equal(ours, theirs)
    new = [mixture.selectors[2] for mixture in after.mixtures]
    assert sum(len(each) for each in new) == np.count_nonzero(SOURCES == 2)
    assert not any(each.metrics()["beliefs/prompts_seen"] for each in new)
    after.run(2)


def test_a_run_of_one_source_may_go_on_with_a_second(tmp_path):
    config = config_of(["method=dps"])
    first = SOURCES == 0
    before = Shards(config, population_of(config, None, IDS[first]), 2)
    before.run(5)
    after = before.resumed(tmp_path, 2, population_of(config))
    assert times_sampled(after)[1] == times_sampled(before)[1]


@pytest.mark.parametrize(
    ("weights", "sources", "says"),
    [
        (WEIGHTS, (SOURCES + 1) % 3, "keep the sources in their order"),
        ((0.5, 0.5), np.minimum(SOURCES, 1), "the snapshot has 3 sources and the run has 2"),
        (None, None, "the snapshot has 3 sources and the run has 1"),
    ],
)
def test_sources_in_another_order_or_fewer_are_refused(weights, sources, says, tmp_path):
    config = config_of(["method=dps"])
    run = Shards(config, population_of(config), 1)
    run.run(5)
    with pytest.raises(ValueError, match=says):
        run.resumed(tmp_path, 1, population_of(config, weights, sources=sources))


def test_weights_that_come_later_than_the_run_are_refused(tmp_path):
    config = config_of(["method=dps"])
    run = Shards(config, population_of(config, None), 1)
    run.run(5)
    with pytest.raises(ValueError, match=r"set data\.weights from the start of a run"):
        run.resumed(tmp_path, 1, population_of(config))


class _Plain(UniformSelector):
    """A user's own selector, whose snapshot names the prompts in its own way."""

    def snapshot(self):
        found = super().snapshot()
        return {name.replace("seen_", "mine_"): value for name, value in found.items()}

    def load_state(self, snapshot):
        super().load_state({n.replace("mine_", "seen_"): v for n, v in snapshot.items()})


def test_uses_are_counted_after_a_restart_whatever_the_snapshot_calls_the_prompts():
    mixture = Mixture([_Plain(IDS)])
    mixture.observe(found_of(IDS[:7], 0))
    again = Mixture([_Plain(IDS)])
    again.load_state(mixture.snapshot())
    assert again.times_sampled() == mixture.times_sampled() == {0: len(IDS) - 7, 1: 7}


def test_an_observation_without_sources_is_refused_where_there_are_several():
    mixture = Mixture([UniformSelector(IDS[:200]), UniformSelector(IDS[200:])])
    with pytest.raises(ValueError, match="the observation has no sources, and there are 2"):
        mixture.observe(Observation(IDS[:1], np.array([1])))
