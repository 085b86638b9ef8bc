"""Beliefs that begin with an evaluation, or with the log of an earlier run."""

import numpy as np
import pytest

from dps_ray.beliefs.states import Observation, states_of
from dps_ray.errors import ConfigError
from dps_ray.hashing import hash_ids, hash_key
from dps_ray.selection.clusters import number_within
from dps_ray.selection.evidence import OUTCOMES, Evidence, by_outcome
from dps_ray.selection.methods import BUILT_IN
from dps_ray.selection.methods.greso import GRESO
from dps_ray.selection.pool.lazy_order import LazyOrder
from dps_ray.selection.population import Population
from dps_ray.selection.settings import BeliefSettings
from tests.dps_ray.shards_in_process import (
    IDS,
    VARIANTS,
    WEIGHTS,
    K,
    Shards,
    assert_equal,
    config_of,
    found_of,
    population_of,
)

BEGINNERS = {
    name: overrides
    for name, overrides in VARIANTS.items()
    if issubclass(BUILT_IN[overrides[0].partition("=")[2]].Settings, BeliefSettings)
}
every_beginner = pytest.mark.parametrize("overrides", BEGINNERS.values(), ids=BEGINNERS)


def joined(parts):
    return Observation(
        *(
            None if parts[0][i] is None else np.concatenate([part[i] for part in parts])
            for i in range(len(Observation._fields))
        )
    )


def evaluation(ids=IDS[::2], weight=1.0):
    """Every second prompt, answered once."""
    return Evidence(found_of(ids, 0), np.zeros(len(ids), np.int32), weight)


def log_of(steps=6, weight=1.0):
    """What a run of so many steps found, some prompts of it several times."""
    found = []
    for step in range(steps):
        luck = hash_ids(IDS, hash_key(99, step)) % np.uint64(8)
        found.append(found_of(IDS[luck == 0], step))
    ages = [np.full(len(each.ids), steps - 1 - at, np.int32) for at, each in enumerate(found)]
    return Evidence(joined(found), np.concatenate(ages), weight)


def predicted(run, ids):
    """By prompt, of a run in one shard with one source."""
    (selector,) = run.mixtures[0].selectors
    selector = getattr(selector, "inner", selector)
    if hasattr(selector, "predicted"):
        return selector.predicted(ids)
    return selector.variances(ids)


def whole_run(overrides, evidence=None):
    config = config_of(overrides)
    return Shards(config, population_of(config, None), 1, evidence=evidence)


@every_beginner
@pytest.mark.parametrize("evidence", [evaluation(), log_of()], ids=["evaluation", "log"])
def test_evidence_of_weight_one_is_believed_as_if_this_run_had_observed_it(overrides, evidence):
    begun, observed = whole_run(overrides, evidence), whole_run(overrides)
    for found in evidence.steps():
        observed.observe(found)
    others = np.setdiff1d(IDS, evidence.found.ids)
    ids = IDS
    if "dps_pooled" in overrides[0]:
        ids = others  # what waits has its cluster's belief; the rest is recent there
    np.testing.assert_array_equal(predicted(begun, ids), predicted(observed, ids))
    assert begun.mixtures[0].times_sampled() == {0: len(IDS)}


@every_beginner
def test_evidence_of_hardly_any_weight_changes_hardly_anything(overrides):
    begun, fresh = whole_run(overrides, evaluation(weight=1e-9)), whole_run(overrides)
    # A rate of which something is known moves as rates do, one of a prompt never seen does not.
    ids = IDS[1::2] if "selector.observation=counts" in overrides else IDS
    np.testing.assert_allclose(predicted(begun, ids), predicted(fresh, ids), rtol=1e-6)


@every_beginner
def test_half_the_weight_lies_between_what_was_seen_and_nothing(overrides):
    evidence = evaluation()
    certain = evidence.found.ids[evidence.found.ids % 3 == 0][:1]  # never solved
    none, half, whole = (
        predicted(whole_run(overrides, evidence._replace(weight=w)), certain)[0]
        for w in (1e-9, 0.5, 1.0)
    )
    unsolved = [np.atleast_1d(each)[0] for each in (none, half, whole)]
    assert unsolved == sorted(unsolved) or unsolved == sorted(unsolved, reverse=True)
    assert len({*unsolved}) == (3 if "dps_pooled" not in overrides[0] else len({*unsolved}))


@every_beginner
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["one source", "three"])
def test_any_number_of_shards_begins_alike_and_a_resumed_run_goes_on_without_the_evidence(
    overrides, weights, tmp_path
):
    config = config_of(overrides)
    evidence = log_of(weight=0.5)
    population = population_of(config, weights)
    runs = [Shards(config, population, count, evidence=evidence) for count in (1, 2, 7)]
    firsts = [run.run(3) for run in runs]
    resumed = [runs[1].resumed(tmp_path, 5), *runs]
    batches = [run.run(12) for run in resumed]
    for each in firsts[1:]:
        for ours, theirs in zip(firsts[0], each, strict=True):
            assert_equal(ours, theirs)
    for each in batches[1:]:
        for ours, theirs in zip(batches[0], each, strict=True):
            assert_equal(ours, theirs)


@every_beginner
def test_a_run_resumed_at_once_knows_the_evidence(overrides, tmp_path):
    config = config_of(overrides)
    run = Shards(config, population_of(config), 2, evidence=evaluation(weight=0.5))
    resumed = run.resumed(tmp_path, 3)
    assert_equal(run.select(16), resumed.select(16))
    assert not run.select(16).times_sampled.any()


@every_beginner
def test_prompts_of_the_evidence_may_leave_the_pool_between_runs(overrides, tmp_path):
    config = config_of(overrides)
    evidence = evaluation(IDS[:100], weight=0.5)
    run = Shards(config, population_of(config, None), 2, evidence=evidence)
    batches = run.run(2)
    seen = np.concatenate([batch.ids for batch in batches])
    kept = (IDS[50] <= IDS) | np.isin(IDS, seen)
    clusters = number_within(IDS[kept], IDS[kept] % 5, config.seed, last=seen)
    smaller = Population(IDS[kept], clusters if config.method == "dps_pooled" else None)
    later = run.resumed(tmp_path, 3, smaller).run(2)
    assert np.isin(np.concatenate([batch.ids for batch in later]), smaller.ids).all()


def test_evidence_is_no_visit():
    config = config_of(["method=dps", "selector.max_uses=1", "selector.fresh_share=1"])
    run = Shards(config, population_of(config, None), 1, evidence=evaluation(IDS))
    observed = []
    for step in range(10):
        batch = run.select(16)
        observed += batch.ids.tolist()
        run.observe(found_of(batch.ids, step))
    assert len({*observed}) == 160
    assert run.mixtures[0].metrics()["beliefs/prompts_seen"] == 160


def test_forgotten_evidence_makes_a_prompt_one_that_was_never_seen():
    """After which it comes once, in its place among those never tried."""
    config = config_of(["method=dps", "selector.decay=0.5"])
    begun = Shards(config, population_of(config, None), 1, evidence=evaluation(weight=0.5))
    fresh = Shards(config, population_of(config, None), 1)
    empty = found_of(IDS[:0], 0)
    for _ in range(200):
        begun.observe(empty)
        fresh.observe(empty)
    assert begun.mixtures[0].metrics()["beliefs/active_rows"] == 0
    for ours, theirs in zip(begun.run(30), fresh.run(30), strict=True):
        np.testing.assert_array_equal(ours.ids, theirs.ids)


def test_a_lazy_order_takes_back_what_left_its_range():
    kept = np.ones(5000, np.bool_)
    order = LazyOrder(np.int64, 5000, lambda first, end: first + np.flatnonzero(kept[first:end]))
    away = np.arange(0, 5000, 3)
    kept[away] = False
    order.discard(away)
    assert order.smallest(3).tolist() == [1, 2, 4]
    kept[away] = True
    order.add(away)
    assert len(order) == 5000
    assert order.smallest(4).tolist() == [0, 1, 2, 3]
    assert order.smallest(5000).tolist() == [*range(5000)]


def test_a_method_without_beliefs_says_so():
    with pytest.raises(ValueError, match="GRESO has no belief"):
        GRESO(IDS, pool=len(IDS)).begin(evaluation())


def test_steps_come_oldest_first_and_steps_without_groups_are_empty():
    found = Observation(
        np.array([5, 3, 5]), states_of(np.array([1, 1, 0]), np.array([2, 2, 2])),
        np.array([1, 1, 0]), np.array([2, 2, 2]),
    )  # fmt: skip
    evidence = Evidence(found, np.array([0, 0, 2], np.int32), 1.0)
    steps = [(each.ids.tolist(), each.successes.tolist()) for each in evidence.steps()]
    assert steps == [([5], [0]), ([], []), ([3, 5], [1, 1])]
    last = evidence.newest()
    assert last.found.ids.tolist() == [3, 5]
    assert last.rates().tolist() == [0.5, 0.5]


def test_clusters_are_divided_by_what_their_prompts_showed_last():
    ids, labels = np.arange(8), np.array([0, 0, 0, 0, 1, 1, 1, 1])
    right = np.array([0, 1, 2, 3, 4, 2])
    found = Observation(
        np.array([0, 1, 2, 4, 5, 2]), states_of(right, np.full(6, 4)), right, np.full(6, 4)
    )
    evidence = Evidence(found, np.array([0, 0, 0, 0, 0, 7], np.int32), 1.0)
    renumbered, names = by_outcome(ids, labels, ["easy", "hard"], evidence)
    assert [names[label] for label in renumbered] == [
        f"easy, {OUTCOMES[0]}",
        f"easy, {OUTCOMES[1]}",
        f"easy, {OUTCOMES[2]}",
        "easy",
        f"hard, {OUTCOMES[3]}",
        f"hard, {OUTCOMES[4]}",
        "hard",
        "hard",
    ]


def test_pooled_beliefs_tell_evaluated_prompts_of_one_cluster_apart():
    config = config_of(["method=dps_pooled"])
    right = np.array([0, 2, 4])[IDS % 3]
    found = Observation(IDS, states_of(right, np.full(len(IDS), 4)), right, np.full(len(IDS), 4))
    evidence = Evidence(found, np.zeros(len(IDS), np.int32), 0.5)
    labels, names = by_outcome(IDS, np.zeros(len(IDS), np.int32), ["all"], evidence)
    assert len(names) == 3
    population = Population(IDS, number_within(IDS, labels, config.seed))
    run = Shards(config, population, 3, evidence=evidence)
    batch = run.select(16)
    assert np.mean(batch.ids % 3 == 1) > 0.8


def test_any_number_of_evaluated_prompts_is_outweighed_by_a_few_steps():
    """A cluster begins with a hundred prompts' worth at most."""
    ids = np.arange(20_000)
    config = config_of(["method=dps_pooled"])
    right = np.full(len(ids), K)
    solved = Observation(ids, states_of(right, right), right, right)
    population = Population(ids, population_of(config, None, ids, np.zeros(len(ids))).clusters)
    evidence = Evidence(solved, np.zeros(len(ids), np.int32), 1.0)
    run = Shards(config, population, 1, evidence=evidence)
    before = run.select(1).predicted[0, 1]
    for step in range(30):
        batch = np.sort(run.select(16).ids)
        half = np.full(len(batch), K // 2)
        whole = np.full(len(batch), K)
        run.observe(Observation(batch, states_of(half, whole), half, whole))
        run.step = step
    assert before < 0.2
    assert run.select(1).predicted[0, 1] > 0.8


@pytest.mark.parametrize("method", ["uniform", "greso", "recency", "history_resampling"])
def test_a_method_without_beliefs_refuses_the_setting(method):
    with pytest.raises(ConfigError, match=r"selector\.start is a setting of dps, dps_pooled, "):
        config_of([f"method={method}", "selector.start=evaluations"])


def test_the_offline_filter_keeps_what_is_solved_sometimes():
    config = config_of(["method=offline_filter", "selector.start=evaluations"])
    evidence = evaluation(IDS)
    rates = evidence.rates()
    expected = IDS[(rates > 0) & (rates < 1)]
    np.testing.assert_array_equal(config.selector.kept(evidence), expected)
    stricter = config_of(
        [
            "method=offline_filter",
            "selector.start=evaluations",
            "selector.least_rate=0.3",
            "selector.most_rate=0.7",
        ]
    )
    np.testing.assert_array_equal(
        stricter.selector.kept(evidence), IDS[(rates > 0.3) & (rates < 0.7)]
    )


def test_the_offline_filter_says_how_to_make_the_evaluation_it_lacks():
    with pytest.raises(ConfigError, match=r"run `python -m pipelines\.evaluate"):
        config_of(["method=offline_filter"])
    with pytest.raises(ConfigError, match="the first must be smaller"):
        config_of(["method=offline_filter", "selector.start=x", "selector.least_rate=1"])


def test_the_offline_filter_draws_every_kept_prompt_before_one_comes_again():
    config = config_of(["method=offline_filter", "selector.start=evaluations"])
    run, drawn = Shards(config, Population(IDS[:40]), 2), []
    for step, size in enumerate((16, 16, 8, 40)):
        batch = run.select(size)
        drawn.append(batch.ids)
        run.observe(found_of(batch.ids, step))
    assert len({*np.concatenate(drawn[:3]).tolist()}) == 40
    assert len({*drawn[3].tolist()}) == 40
