"""What holds for every selection method: any number of shards, restarts, refusals."""

import numpy as np
import pytest

from dps_ray import BeliefStore, UniformSelector, merge
from dps_ray.beliefs.states import Observation
from dps_ray.durable import Storage, read_snapshot, reshard, shard_file, write_snapshot
from dps_ray.hashing import hash_ids, hash_key, shards
from dps_ray.selection.coverage import CoverageLimits, fresh_of
from dps_ray.selection.methods import (
    GRESO,
    HistoryResampling,
    MaPP,
    MoPPS,
    Oracle,
    RateHMM,
    Recency,
    VarianceEMA,
)
from dps_ray.selection.pooled import PooledStore, number_within

IDS = np.random.default_rng(0).integers(-(2**62), 2**62, 300)
BATCH, STEPS, K = 24, 30, 8

LABELS = IDS % 5 * (IDS % 3 == 0)


def clusters_of(ids):
    """Of these prompts, in a pool of all."""
    return number_within(IDS, LABELS, 5).take(np.flatnonzero(np.isin(IDS, ids)))


def restored(make, snapshot, ids):
    selector = make(ids)
    selector.load_state(snapshot)
    return selector


def tempered(selector, temperature):
    selector.temperature = temperature
    return selector


METHODS = {
    "history_resampling": lambda ids: HistoryResampling(ids, seed=5),
    "mopps": lambda ids: MoPPS(ids, seed=5),
    "mapp": lambda ids: MaPP(ids, seed=5),
    "mapp, greedy": lambda ids: MaPP(ids, seed=5, decay=0.7, greedy=True),
    "greso": lambda ids: GRESO(ids, seed=5, pool=len(IDS)),
    "variance_ema": lambda ids: VarianceEMA(ids, seed=5),
    "recency": lambda ids: Recency(ids, seed=5),
    "dps from counts": lambda ids: RateHMM(ids, seed=5),
    "oracle": lambda ids: Oracle(ids, seed=5),
    "dps_pooled": lambda ids: PooledStore(ids, clusters_of(ids), seed=5),
    "dps_pooled, two uses": lambda ids: PooledStore(ids, clusters_of(ids), seed=5, max_uses=2),
    "dps_pooled, counts": lambda ids: PooledStore(
        ids, clusters_of(ids), seed=5, observation="counts", rest=2
    ),
}
# With limits and draws around or within them (`dps_ray.selection.coverage`).
COVERED = {
    "dps, covered": lambda ids: CoverageLimits(
        BeliefStore(ids, seed=5), rest=3, max_uses=2, fresh_share=0.3
    ),
    "dps, tempered": lambda ids: BeliefStore(ids, seed=5, temperature=0.5),
    "dps, resting and tempered": lambda ids: CoverageLimits(
        BeliefStore(ids, seed=5, temperature=0.5, decay=1.0), rest=20
    ),
    "dps_pooled, half fresh": lambda ids: CoverageLimits(
        PooledStore(ids, clusters_of(ids), seed=5, temperature=0.05, rest=1), fresh_share=0.5
    ),
    "dps from counts, covered and tempered": lambda ids: CoverageLimits(
        tempered(RateHMM(ids, seed=5), 0.5), rest=3, max_uses=2, fresh_share=0.3
    ),
    "variance_ema, tempered": lambda ids: tempered(VarianceEMA(ids, seed=5), 0.3),
    "history_resampling, used once": lambda ids: CoverageLimits(
        HistoryResampling(ids, seed=5), max_uses=1
    ),
    "uniform, used once": lambda ids: CoverageLimits(UniformSelector(ids, seed=5), max_uses=1),
}
every_method = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
covered_too = pytest.mark.parametrize(
    "make", [*METHODS.values(), *COVERED.values()], ids=[*METHODS, *COVERED]
)


def split(ids, count):
    homes = shards(ids, count)
    return [ids[homes == shard] for shard in range(count)]


def outcome(ids, step):
    """Right responses of these prompts at this step: a third of them never solved, a third always."""
    kind, luck = ids % 3, draw(ids, step) % (K + 1)
    return np.select([kind == 0, kind == 1], [0, K], luck)


def draw(ids, *key):
    """A number below 2^53 for each prompt and key: int64 (n,)."""
    return (hash_ids(ids, hash_key(*key)) >> np.uint64(11)).astype(np.int64)


def found_of(ids, states):
    """A whole step that found these prompts in these states."""
    known = number_within(IDS, LABELS, 5).take([IDS.tolist().index(i) for i in ids])
    right = np.array([0, K // 2, K])[states]
    return Observation(
        ids, np.array(states), right, np.full(len(ids), K), known.labels, known.ranks
    )


def states_of(successes):
    return np.select([successes == 0, successes == K], [0, 2], 1)


def step(selectors, number, in_flight):
    """One step over all shards: what was selected, and which of it was not observed."""
    count = len(selectors)
    homes = shards(in_flight, count)
    proposed = []
    for shard, selector in enumerate(selectors):
        mine = in_flight[homes == shard]
        size = min(BATCH, len(selector) - len(mine))
        proposed.append(selector.select(size, exclude=mine))
    share = getattr(selectors[0], "_fresh_share", 0.0)
    batch = merge(proposed, BATCH, fresh_of(BATCH, share))
    done = draw(batch.ids, number, 1) % 10 > 0
    successes = outcome(batch.ids, number)
    states = states_of(successes)
    order = np.flatnonzero(done)[np.argsort(batch.ids[done])]
    known = number_within(IDS, LABELS, 5).take([IDS.tolist().index(i) for i in batch.ids[order]])
    whole = Observation(
        batch.ids[order],
        states[order],
        successes[order],
        np.full(len(order), K),
        clusters=known.labels,
        ranks=known.ranks,
    )
    homes = shards(batch.ids, count)
    for shard, selector in enumerate(selectors):
        mine = (done & (homes == shard)).nonzero()[0][::-1]
        counts = successes[mine], np.full(len(mine), K)
        selector.observe(Observation(batch.ids[mine], states[mine], *counts), whole)
    return batch, batch.ids[~done]


def run(make, count, steps=STEPS, restart=None, storage=None):
    """The batches of these steps; at half of them all is stored and restored over `restart` shards."""
    parts = split(IDS, count)
    selectors = [make(ids) for ids in parts]
    batches, in_flight = [], np.empty(0, np.int64)
    for number in range(steps):
        if restart and number == steps // 2:
            snapshots = [
                read_snapshot(
                    storage, write_snapshot(storage, shard_file(at, count), each.snapshot())
                )
                for at, each in enumerate(selectors)
            ]
            parts = split(IDS, restart)
            selectors = [
                restored(make, snapshot, ids)
                for snapshot, ids in zip(reshard(snapshots, restart), parts, strict=True)
            ]
        if isinstance(selectors[0], Oracle) and number % 7 == 0:
            for selector, ids in zip(selectors, parts, strict=True):
                selector.set_rates(draw(ids, number, 2) / 2.0**53)
        batch, in_flight = step(selectors, number, in_flight)
        batches.append(batch)
    return batches, selectors


@pytest.fixture(scope="module")
def one_store():
    results = {}

    def of(make):
        if make not in results:
            results[make] = run(make, 1)[0]
        return results[make]

    return of


def assert_equal(ours, theirs):
    for batch, other in zip(ours, theirs, strict=True):
        for name, field, expected in zip(batch._fields, batch, other, strict=True):
            np.testing.assert_array_equal(field, expected, err_msg=name)


@covered_too
@pytest.mark.parametrize(("count", "restart"), [(2, None), (7, None), (1, 1), (2, 7), (7, 1)])
def test_selections_are_bit_equal_for_any_number_of_shards_and_over_a_restart(
    make, count, restart, one_store, tmp_path
):
    batches, selectors = run(make, count, restart=restart, storage=Storage.at(tmp_path))
    assert_equal(batches, one_store(make))
    times = sum(
        selector.times_sampled(selector.select(len(selector)).ids).sum() for selector in selectors
    )
    seen = sum(selector.metrics()["beliefs/prompts_seen"] for selector in selectors)
    assert times > 0.8 * BATCH * STEPS
    assert BATCH <= seen <= len(IDS)


@covered_too
def test_a_snapshot_holds_arrays_and_plain_numbers_and_comes_back_equal(make, tmp_path):
    _, (selector,) = run(make, 1, steps=9)
    storage, snapshot = Storage.at(tmp_path), selector.snapshot()
    back = read_snapshot(storage, write_snapshot(storage, shard_file(0, 1), snapshot))
    again = restored(make, back, IDS).snapshot()
    assert again.keys() == snapshot.keys()
    for name, value in snapshot.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)


@covered_too
def test_selecting_changes_nothing(make):
    _, (selector,) = run(make, 1, steps=9)
    first, before = selector.select(40), selector.snapshot()
    selector.select(7, exclude=first.ids[:20])
    assert_equal([selector.select(40)], [first])
    for name, value in selector.snapshot().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


@every_method
def test_the_best_come_first_and_a_smaller_batch_is_the_head_of_a_larger(make):
    _, (selector,) = run(make, 1, steps=20)
    everyone = selector.select(len(IDS))
    assert_equal([everyone.ranked()], [everyone])
    assert sorted(everyone.ids) == sorted(IDS)
    for size in (0, 1, 7, 299):
        assert selector.select(size).ids.tolist() == everyone.ids[:size].tolist()


@covered_too
def test_excluded_prompts_are_passed_over(make):
    _, (selector,) = run(make, 1, steps=9)
    usual = selector.select(60).ids
    assert selector.select(40, exclude=usual[:20]).ids.tolist() == usual[20:].tolist()
    assert len(selector.select(len(IDS) - 20, exclude=usual[:20]).ids) == len(IDS) - 20


@covered_too
def test_a_prompt_that_is_not_observed_keeps_its_count(make):
    selector = make(IDS)
    batch = selector.select(5)
    selector.observe(Observation(batch.ids[:2], [1, 1], [3, 4], [K, K]))
    assert selector.times_sampled(batch.ids).tolist() == [1, 1, 0, 0, 0]


@every_method
def test_other_seeds_give_other_batches(make):
    # Every method starts with all prompts alike, but for its draws.
    batch = make(IDS).select(BATCH).ids
    other = type(make(IDS))(IDS, seed=6, **({"pool": len(IDS)} if make is METHODS["greso"] else {}))
    assert set(other.select(BATCH).ids.tolist()) != set(batch.tolist())


@covered_too
def test_a_shard_may_be_empty(make):
    selector = make(np.empty(0, np.int64))
    whole = found_of(IDS[:6], [0, 1, 1, 2, 2, 2])
    selector.observe(Observation([], [], [], []), whole)
    assert selector.select(0).predicted.shape == (0, 3)
    assert len(restored(make, selector.snapshot(), np.empty(0, np.int64))) == 0


@every_method
@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda s: s.select(301), "301 prompts"),
        (lambda s: s.select(-1), "-1 prompts"),
        (lambda s: s.select(1, exclude=[-5]), "id -5"),
        (lambda s: s.select(1, exclude=IDS[[1, 1]]), "given twice"),
        (lambda s: s.observe(Observation([-5], [0], [0], [K])), "id -5"),
        (lambda s: s.observe(Observation(IDS[[1, 1]], [0, 0], [0, 0], [K, K])), "given twice"),
        (lambda s: s.observe(Observation(IDS[:1], [4], [0], [K])), "state 4"),
        (lambda s: s.observe(Observation(IDS[:2], [0], [0, 0], [K, K])), "one for each"),
        (
            lambda s: s.observe(Observation(IDS[:2], [0, 0], [0], [K, K])),
            "successes must be 2 integers",
        ),
        (
            lambda s: s.observe(Observation(IDS[:1], [1], [0.5], [K])),
            "successes must be 1 integers",
        ),
        (
            lambda s: s.observe(Observation(IDS[:1], [0], [0], [[K]])),
            "responses must be 1 integers",
        ),
        (lambda s: s.observe(Observation(IDS[:1], [0], [0])), "both successes and responses"),
        (lambda s: s.observe(Observation(IDS[:1], [2], [9], [K])), "9 right of 8 responses"),
        (lambda s: s.observe(Observation(IDS[:1], [0], [-1], [K])), "-1 right of 8"),
        (lambda s: s.observe(Observation(IDS[:1], [0], [0], [0])), "0 right of 0"),
        (
            lambda s: s.observe(Observation(IDS[:1], [2], [3], [K])),
            "3 right of 8 responses and state 2",
        ),
        (
            lambda s: s.observe(Observation(IDS[:1], [0], [0], [K]), found_of(IDS[1:3], [1, 2])),
            "of this shard",
        ),
        (
            lambda s: s.observe(Observation(IDS[:1], [0], [0], [K]), found_of(IDS[:2], [0, 2])),
            "of this shard",
        ),
    ],
)
def test_wrong_input_is_named_and_changes_nothing(make, call, named):
    selector = make(IDS)
    before = selector.snapshot()
    with pytest.raises(ValueError, match=named):
        call(selector)
    for name, value in selector.snapshot().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


@pytest.mark.parametrize(
    "name", ["mopps", "mapp", "variance_ema", "dps from counts", "dps_pooled, counts"]
)
def test_a_method_that_learns_from_counts_refuses_states_alone(name):
    selector = METHODS[name](IDS)
    with pytest.raises(ValueError, match=f"{type(selector).__name__} was told states alone"):
        selector.observe(Observation(IDS[:1], [1]))
    selector.observe(Observation([], []))
    assert selector.step == 1


@pytest.mark.parametrize("name", ["history_resampling", "greso", "recency", "oracle"])
def test_other_methods_learn_from_states_alone(name):
    METHODS[name](IDS).observe(Observation(IDS[:3], [0, 1, 2]))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: MoPPS(IDS, decay=1.5), "decay"),
        (lambda: MaPP(IDS, group_size=1), "never mixed"),
        (lambda: VarianceEMA(IDS, keep=-0.1), "keep"),
        (lambda: GRESO(IDS, pool=10), "pool is 10"),
        (lambda: Recency([1, 1]), "twice"),
        (lambda: Oracle(IDS).set_rates([0.5]), "300 numbers"),
        (lambda: Oracle([1]).set_rates([np.nan]), "between 0 and 1"),
    ],
)
def test_settings_out_of_range_are_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()


@pytest.mark.parametrize(
    "scores",
    [
        np.full(5000, 0.5),
        np.r_[np.full(4000, 0.5), np.random.default_rng(0).random(1000)],
        np.random.default_rng(1).integers(0, 5, 5000) / 5,
        np.arange(5000.0),
        np.arange(5000.0)[::-1].copy(),
    ],
    ids=["equal", "mostly equal", "five values", "ascending", "descending"],
)
def test_the_top_of_any_scores_is_that_of_sorting_them(scores):
    oracle = Oracle(np.arange(5000), seed=3)
    oracle.set_rates(scores / scores.max() / 2)
    everyone = oracle.select(5000)
    assert_equal([everyone.ranked()], [everyone])
    for size in (1, 2, 50, 999, 4999):
        assert oracle.select(size).ids.tolist() == everyone.ids[:size].tolist()
