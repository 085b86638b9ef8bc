"""Limits on how soon and how often a prompt comes again, whatever the method."""

import numpy as np
import pytest

from dps_ray import BeliefStore, UniformSelector
from dps_ray.beliefs.states import Observation
from dps_ray.config.settings import load
from dps_ray.hashing import hash_ids, hash_key
from dps_ray.selection import methods
from dps_ray.selection.coverage import CoverageLimits
from dps_ray.selection.draws import on_the_ring, tempered
from dps_ray.selection.methods import Oracle
from dps_ray.selection.selector import Context

IDS = np.random.default_rng(0).choice(10**12, 200, replace=False)
K = 8


def made(method="dps", ids=IDS, **settings):
    chosen = methods.load(method).Settings(**settings)
    return methods.make(method, ids, chosen, Context(seed=0, pool=len(ids), group_size=K))


def run(selector, steps, size):
    """The batches; every prompt is partial always."""
    batches = []
    for _ in range(steps):
        batches.append(selector.select(size))
        selector.observe(
            Observation(batches[-1].ids, np.ones(size), np.full(size, 4), np.full(size, K))
        )
    return [set(batch.ids.tolist()) for batch in batches]


@pytest.mark.parametrize("method", ["dps", "mopps", "variance_ema", "recency", "dps_pooled"])
def test_a_prompt_rests_for_as_many_steps_as_are_set(method):
    batches = run(made(method, rest=6), 60, 20)
    for step, batch in enumerate(batches):
        assert not batch & set().union(*batches[max(0, step - 6) : step])
    assert any(batches[step] & batches[step + 7] for step in range(53))


def test_without_a_rest_dps_returns_at_once():
    first, second = run(made(), 2, 20)
    assert first == second


def test_in_a_small_pool_those_that_rested_longest_come_first():
    batches = run(made(ids=IDS[:50], rest=10), 30, 20)
    for step in range(3, 30):
        assert not batches[step] & batches[step - 1]
        assert len(batches[step] | batches[step - 1] | batches[step - 2]) == 50


@pytest.mark.parametrize("method", ["dps", "mopps", "variance_ema", "dps_pooled"])
@pytest.mark.parametrize("uses", [1, 3])
def test_no_prompt_is_used_up_again_before_all_were(method, uses):
    selector = made(method, max_uses=uses, rest=0)
    for _step in range(12 * uses):
        rounds = selector.times_sampled(IDS) // uses
        [batch] = run(selector, 1, 40)
        chosen = np.isin(IDS, list(batch))
        assert chosen[rounds < rounds[chosen].max()].all()
    assert np.ptp(selector.times_sampled(IDS)) <= uses


def test_a_share_of_the_batch_is_of_prompts_never_tried_as_long_as_there_are_any():
    selector = made(fresh_share=0.25)
    run(selector, 1, 40)
    for _step in range(16):
        batch = selector.select(40)
        assert np.count_nonzero(batch.times_sampled == 0) == 10
        assert np.all(np.diff(batch.score) <= 0)
        selector.observe(Observation(batch.ids, np.ones(40)))
    assert selector.times_sampled(IDS).min() == 1
    assert len(selector.select(40).ids) == 40


def test_a_method_that_takes_new_prompts_anyway_is_left_alone():
    bare, covered = UniformSelector(IDS), CoverageLimits(UniformSelector(IDS), fresh_share=0.5)
    for _ in range(7):
        assert run(bare, 1, 30) == run(covered, 1, 30)


def test_with_all_limits_off_a_method_is_itself():
    assert type(made()) is BeliefStore
    assert type(made("uniform")) is UniformSelector
    assert type(made(rest=0)) is BeliefStore
    assert "temperature" not in made().snapshot()


# --- temperature -----------------------------------------------------------------------------------


def drawn_first(make, draws):
    """How often each prompt comes first."""
    counts = dict.fromkeys(IDS.tolist(), 0)
    for seed in range(draws):
        counts[int(make(seed).select(1).ids[0])] += 1
    return np.array(list(counts.values()))


def test_prompts_are_drawn_by_their_score_to_the_power_of_one_over_the_temperature():
    rates = np.where(np.arange(200) < 50, 0.5, 0.02)
    weights = (1 - rates**K - (1 - rates) ** K) ** (1 / 0.5)

    def make(seed):
        oracle = Oracle(IDS, K, seed)
        oracle.set_rates(rates)
        oracle.temperature = 0.5
        return oracle

    share = drawn_first(make, 3000)[:50].sum() / 3000
    assert share == pytest.approx(weights[:50].sum() / weights.sum(), abs=0.02)


def test_dps_draws_idle_and_seen_prompts_by_one_rule():
    """40 prompts seen partial score 0.4, 160 never seen 1/3."""

    def make(seed):
        store = BeliefStore(IDS, seed=seed, temperature=0.2)
        store.observe(Observation(IDS[:40], np.ones(40)))
        return store

    counts = drawn_first(make, 3000)
    weight = (0.4 * 3) ** 5
    assert counts[:40].sum() / 3000 == pytest.approx(40 * weight / (40 * weight + 160), abs=0.03)
    assert counts[40:].max() < 25  # of some 8: none of the idle is drawn more than others


def test_a_low_temperature_takes_the_best_and_a_high_one_anybody():
    store = BeliefStore(IDS, temperature=1e-6)
    store.observe(Observation(IDS[:40], np.ones(40)))
    assert set(store.select(40).ids) == set(IDS[:40])
    hot = BeliefStore(IDS, temperature=1e6)
    hot.observe(Observation(IDS[:40], np.ones(40)))
    assert 3 <= len({*hot.select(100).ids.tolist()} & {*IDS[:40].tolist()}) <= 35


def test_the_noise_of_the_ring_is_that_of_single_draws():
    """Kolmogorov-Smirnov against the Gumbel distribution, level 0.1%."""
    ties = hash_ids(np.arange(20_000), hash_key(3))
    for noise in (
        on_the_ring(np.ones(20_000), 1.0, ties, 2**63 + 12345),
        tempered(np.ones(20_000), 1.0, ties, 9),
    ):
        expected = np.exp(-np.exp(-np.sort(noise)))
        assert np.abs(expected - (np.arange(20_000) + 0.5) / 20_000).max() < 1.95 / np.sqrt(20_000)


# --- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (
            ["method=mopps", "selector.temperature=0.5"],
            "is a setting of dps, dps_pooled, variance_ema",
        ),
        (["selector.temperature=0.5", "selector.candidates=0.5"], "set one of them to null"),
        (["selector.temperature=0"], "selector.temperature=0: input should be greater than 0"),
        (["selector.fresh_share=2"], "selector.fresh_share=2: input should be less than or equal"),
        (["selector.max_uses=0"], "selector.max_uses=0: input should be greater"),
        (["selector.rest=-1"], "selector.rest=-1: input should be greater"),
    ],
)
def test_limits_that_make_no_sense_are_refused(overrides, named):
    with pytest.raises(ValueError, match=named):
        load(None, overrides)


def test_limits_are_checked_where_they_are_made_too():
    with pytest.raises(ValueError, match="fresh_share=1"):
        CoverageLimits(UniformSelector(IDS), fresh_share=1.5)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        BeliefStore(IDS, temperature=0.0)
