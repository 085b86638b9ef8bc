"""The proposals of one call answer as the shards would if they were asked again, or say that they cannot."""

import numpy as np
import pytest

from tests.dps_ray.shards_in_process import (
    BATCH,
    IDS,
    NONE,
    VARIANTS,
    WEIGHTS,
    Shards,
    assert_equal,
    config_of,
    population_of,
)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["one source", "three sources"])
@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
def test_what_the_proposals_settle_is_what_asking_again_gives(overrides, weights):
    config = config_of(overrides)
    runs = [Shards(config, population_of(config, weights), count) for count in (1, 2, 5)]
    rng, settled, unsettled = np.random.default_rng(0), 0, 0
    for _ in range(12):
        before = np.sort(rng.choice(IDS, size=rng.integers(20), replace=False))
        proposals = [run.proposed(BATCH, before) for run in runs]
        ranked = runs[0].select(100, before).ids
        for size in (BATCH, 1, BATCH + 5):
            # Some of the best, as prompts that are too long or have failed, and some of all others.
            best = ranked[: rng.integers(len(ranked) + 1)]
            more = rng.choice(best, size=rng.integers(len(best) + 1), replace=False)
            others = rng.choice(IDS, size=rng.integers(20), replace=False)
            excluded = np.unique(np.concatenate([before, more, others]))
            asked_again = runs[0].select(size, excluded)
            for run, proposed in zip(runs, proposals, strict=True):
                if proposed.settle(size, excluded, run.mix):
                    settled += 1
                    found = proposed.best(size, excluded, run.mix, run.step)
                    assert_equal(found, asked_again)
                else:
                    unsettled += 1
        for run in runs:
            run.run(1)
    assert settled >= (0 if config.selector.fresh_share else 60)
    assert unsettled > 0


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
def test_a_second_batch_after_the_first_needs_no_other_call(overrides):
    config = config_of(overrides)
    run = Shards(config, population_of(config), 3)
    run.run(5)
    proposals, first = run.proposed(BATCH), run.select(BATCH)
    if not config.selector.fresh_share:
        assert proposals.settle(BATCH, np.sort(first.ids), run.mix)


def test_proposals_made_without_some_prompts_do_not_settle_what_includes_them():
    config = config_of(["method=dps"])
    run = Shards(config, population_of(config), 2)
    proposals = run.proposed(BATCH, IDS[:5])
    assert proposals.settle(BATCH, IDS[:5], run.mix)
    assert not proposals.settle(BATCH, NONE, run.mix)
    assert not proposals.settle(BATCH, IDS[1:6], run.mix)


def test_proposals_that_are_used_up_settle_nothing_as_long_as_a_shard_has_more():
    config = config_of(["method=uniform"])
    run = Shards(config, population_of(config, None), 2)
    every = run.proposed(BATCH)
    used = np.sort(np.concatenate([s.ids for shard in every.selections for s in shard]))
    assert not every.settle(1, used, run.mix)
    whole = run.proposed(len(IDS))
    assert whole.settle(len(IDS), used, run.mix)
    left = whole.best(len(IDS), used, run.mix, 0).ids
    assert sorted(left) == sorted(np.setdiff1d(IDS, used))


def test_a_share_of_fresh_prompts_is_settled_only_for_the_question_asked():
    config = config_of(["method=dps", "selector.fresh_share=0.5"])
    run = Shards(config, population_of(config), 2)
    proposals = run.proposed(BATCH, IDS[:3])
    assert proposals.settle(BATCH, IDS[:3], run.mix)
    assert not proposals.settle(BATCH - 1, IDS[:3], run.mix)
    assert not proposals.settle(BATCH, IDS[:4], run.mix)
