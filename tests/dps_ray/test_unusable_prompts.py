"""Prompts that are drawn and cannot be used: never counted, never in the way, alike for any number of shards."""

import numpy as np
import pytest

from dps_ray.beliefs.states import UNUSABLE, observed
from dps_ray.durable import ObservationLog, Storage
from dps_ray.hashing import hash_ids, hash_key
from dps_ray.selection.population import Population, number_by_source
from tests.dps_ray.shards_in_process import (
    BATCH,
    IDS,
    NONE,
    VARIANTS,
    Shards,
    assert_equal,
    config_of,
    found_of,
    population_of,
)

EVERY = pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)


def too_long(ids):
    """A fifth of all prompts, whatever their kind; and half of those of kind 0."""
    some = hash_ids(ids, hash_key(99))
    return (some % np.uint64(5) == 0) | ((ids % 5 == 0) & (some % np.uint64(2) == 0))


class Drawing:
    """A run that finds out which prompts are too long by drawing them, as `Phases` does."""

    def __init__(self, shards, aside=NONE):
        self.shards, self.aside = shards, aside

    def run(self, steps):
        """The batches of so many steps."""
        batches = []
        for _ in range(steps):
            found, refused = self.shards.proposed(BATCH, self.aside), NONE
            while True:
                excluded = np.union1d(self.aside, refused)
                if not found.settle(BATCH, excluded, self.shards.mix):
                    found = self.shards.proposed(BATCH, excluded)
                batch = found.best(BATCH, excluded, self.shards.mix, self.shards.step)
                wrong = batch.ids[too_long(batch.ids)]
                if not len(wrong):
                    break
                refused = np.union1d(refused, wrong)
            batches.append(batch)
            seen = found_of(batch.ids, self.shards.step)
            self.shards.observe(seen.with_unusable(refused))
            self.aside = np.union1d(self.aside, refused)
        return batches


def drawing(overrides, count, weights=None):
    config = config_of(overrides)
    return Drawing(Shards(config, population_of(config, weights), count))


def times_sampled(run, id_):
    return sum(
        int(selector.times_sampled([id_])[0])
        for mixture in run.shards.mixtures
        for selector in mixture.selectors
        if _holds(selector, id_)
    )


def _holds(selector, id_):
    try:
        selector.times_sampled([id_])
    except ValueError:
        return False
    return True


@EVERY
def test_batches_are_full_and_the_same_for_any_number_of_shards(overrides):
    runs = [drawing(overrides, count) for count in (1, 2, 5)]
    batches = [run.run(12) for run in runs]
    assert len(runs[0].aside) > BATCH
    for one, *others in zip(*batches, strict=True):
        assert len(one.ids) == BATCH
        assert not too_long(one.ids).any()
        for other in others:
            assert_equal(one, other)


@EVERY
def test_a_prompt_that_cannot_be_used_is_never_counted_as_observed(overrides):
    run = drawing(overrides, 3)
    run.run(8)
    assert [times_sampled(run, id_) for id_ in run.aside[:10]] == [0] * 10


@EVERY
def test_a_run_resumed_with_other_shards_goes_on_as_if_nothing_had_happened(overrides, tmp_path):
    run = drawing(overrides, 2)
    run.run(6)
    again = Drawing(run.shards.resumed(tmp_path, 3), run.aside)
    for ours, theirs in zip(again.run(6), run.run(6), strict=True):
        assert_equal(ours, theirs)


def test_each_kind_is_drawn_as_often_as_it_has_prompts_that_can_be_used():
    # All kinds show the same. The standard deviation of a share is about .015.
    config = config_of(["method=dps_pooled", "selector.temperature=1"])
    ids = np.sort(np.random.default_rng(1).choice(2**62, size=8000, replace=False))
    run = Drawing(Shards(config, population_of(config, None, ids), 1))
    run.run(20)
    drawn = np.concatenate([batch.ids for batch in run.run(40)])
    usable = ids[~too_long(ids)]
    shares, expected = (np.bincount(some % 5, minlength=5) / len(some) for some in (drawn, usable))
    assert expected[0] < 0.12
    assert np.all(np.abs(shares - expected) < 0.05)


def test_they_stay_away_when_the_pool_grows(tmp_path):
    config = config_of(["method=dps_pooled"])
    half = np.sort(np.random.default_rng(0).choice(IDS, 250, replace=False))

    def population(ids, last=None):
        sources = np.zeros(len(ids), np.int16)
        clusters = number_by_source(ids, ids % 5, config.seed, sources, last)
        return Population(ids, clusters, sources, (1.0,))

    before = Drawing(Shards(config, population(half), 2))
    batches = before.run(6)
    known = np.union1d(np.concatenate([batch.ids for batch in batches]), before.aside)
    grown = [
        Drawing(before.shards.resumed(tmp_path / str(n), n, population(IDS, known)), before.aside)
        for n in (1, 3)
    ]
    waiting = [
        selector._waiting
        for each in grown
        for mixture in each.shards.mixtures
        for selector in mixture.selectors
    ]
    for each in waiting:
        rows = np.searchsorted(IDS, before.aside)
        clusters = population(IDS, known).clusters
        keys = (clusters.labels[rows].astype(np.int64) << 32) | clusters.ranks[rows]
        assert np.isin(keys, each._away).all()
    for ours, theirs in zip(*(each.run(6) for each in grown), strict=True):
        assert_equal(ours, theirs)


def test_the_log_tells_them_from_observations(tmp_path):
    log = ObservationLog(Storage.at(tmp_path), 1)
    seen = observed([3, 9], [1, 2], [2, 2])
    log.append(1, seen.with_unusable([5]))
    [(_, read)] = log.steps_after(0)
    assert read.ids.tolist() == [3, 5, 9]
    assert read.states.tolist() == [1, UNUSABLE, 2]
    observation, unusable = read.split()
    for ours, theirs in zip(observation, seen, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert unusable.ids.tolist() == [5]
