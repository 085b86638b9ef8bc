"""A snapshot continued over more prompts: what every method keeps, and how pooled beliefs number prompts anew."""

import numpy as np
import pytest

from dps_ray import merge
from dps_ray.beliefs.states import Observation
from dps_ray.durable import reshard
from dps_ray.hashing import hash_ids, hash_key, shards
from dps_ray.selection import methods
from dps_ray.selection.clusters import number_within
from dps_ray.selection.coverage import fresh_of
from dps_ray.selection.methods import Oracle
from dps_ray.selection.pooled import PooledStore
from dps_ray.selection.selector import Context

RNG = np.random.default_rng(7)
ALL = RNG.permutation(np.unique(RNG.integers(-(2**62), 2**62, 400)))
BEFORE = ALL[:250]
# Kinds 0 to 3 before; the new prompts are of all kinds, and of kind 4, which is new.
LABELS = np.where(np.arange(400) < 250, ALL % 4, ALL % 5).astype(np.int64)
SEED, BATCH, STEPS, K = 3, 20, 9, 8

VARIANTS = {
    **{name: (name, {}) for name in methods.BUILT_IN},
    "dps, decay 1": ("dps", {"decay": 1.0}),
    "dps, tempered": ("dps", {"temperature": 0.5}),
    "dps, candidates": ("dps", {"candidates": 0.4}),
    "dps from counts": ("dps", {"observation": "counts"}),
    "dps from rewards": ("dps", {"observation": "rewards"}),
    "dps_pooled from states": ("dps_pooled", {"observation": "states"}),
    "dps_pooled, two uses": ("dps_pooled", {"max_uses": 2, "rest": 2}),
    "dps_pooled, half fresh": ("dps_pooled", {"fresh_share": 0.5}),
    "uniform, limited": ("uniform", {"rest": 3, "max_uses": 1}),
    "mopps, limited": ("mopps", {"rest": 3, "max_uses": 2, "fresh_share": 0.3}),
}
every_method = pytest.mark.parametrize("variant", VARIANTS)


def labels_of(ids):
    order = np.argsort(ALL)
    return LABELS[order[np.searchsorted(ALL, ids, sorter=order)]]


class Pool:
    """The selectors of all shards over these prompts, some of which an earlier pool had observed."""

    def __init__(self, variant, ids, count, observed=None):
        self.ids, self.count = ids, count
        name, given = VARIANTS[variant]
        settings = methods.load(name).Settings(**given)
        self.clusters = number_within(ids, labels_of(ids), SEED, observed)
        homes = shards(ids, count)
        self.selectors = [
            methods.make(
                name,
                ids[homes == shard],
                settings,
                Context(SEED, len(ids), K, clusters=self.clusters.take(homes == shard)),
            )
            for shard in range(count)
        ]
        self.share = given.get("fresh_share", 0.0)

    def load(self, snapshots):
        for selector, snapshot in zip(self.selectors, reshard(snapshots, self.count), strict=True):
            selector.load_state(snapshot)
        return self

    def snapshots(self):
        return [selector.snapshot() for selector in self.selectors]

    def select(self, size):
        parts = [selector.select(min(size, len(selector))) for selector in self.selectors]
        size = min(size, sum(len(part.ids) for part in parts))  # of candidates there may be fewer
        return merge(parts, size, fresh_of(size, self.share))

    def run(self, first, steps):
        """The batches of these steps, with outcomes by prompt and step alone; one in ten rollouts fails."""
        batches = []
        for number in range(first, first + steps):
            batch = self.select(BATCH)
            ids = np.sort(batch.ids)
            luck = (hash_ids(ids, hash_key(number)) >> np.uint64(11)).astype(np.int64)
            ids, luck = ids[luck % 10 > 0], luck[luck % 10 > 0]
            right = np.select([ids % 3 == 0, ids % 3 == 1], [0, K], luck % (K + 1))
            rows = np.argsort(self.ids)[np.searchsorted(np.sort(self.ids), ids)]
            found = self.clusters.take(rows)
            whole = Observation(
                ids,
                np.select([right == 0, right == K], [0, 2], 1),
                right,
                np.full(len(ids), K),
                found.labels,
                found.ranks,
                right / K,
                np.sqrt(right / K * (1 - right / K) * K / (K - 1)),
            )
            homes = shards(ids, self.count)
            for shard, selector in enumerate(self.selectors):
                selector.observe(whole.take(homes == shard), whole)
            batches.append(batch)
        return batches

    def by_id(self, name, ids):
        """What a method of the selectors says of these prompts: an array, by prompt."""
        homes, found = shards(ids, self.count), {}
        for shard, selector in enumerate(self.selectors):
            inner = getattr(selector, "inner", selector)
            mine = ids[homes == shard]
            found.update(zip(mine.tolist(), getattr(inner, name)(mine), strict=True))
        return np.array([found[id_] for id_ in ids.tolist()])

    def observed(self):
        return self.ids[self.by_id("times_sampled", self.ids) > 0]


@pytest.fixture(scope="module")
def before():
    """The pool before it grew, after some steps, by variant; and what it observed."""
    made = {}

    def of(variant):
        if variant not in made:
            pool = Pool(variant, BEFORE, 2)
            pool.run(0, STEPS)
            made[variant] = pool, pool.observed()
        return made[variant]

    return of


def grown(variant, before, count, observed=None):
    old, seen = before(variant)
    return Pool(variant, ALL, count, seen if observed is None else observed).load(old.snapshots())


def assert_equal(ours, theirs):
    for batch, other in zip(ours, theirs, strict=True):
        for name, field, expected in zip(batch._fields, batch, other, strict=True):
            np.testing.assert_array_equal(field, expected, err_msg=name)


@every_method
def test_what_is_known_of_a_prompt_stays_and_new_ones_were_never_seen(variant, before):
    old, seen = before(variant)
    assert 50 < len(seen) < len(BEFORE)  # so that some of the old pool were never seen
    pool = grown(variant, before, 3)
    np.testing.assert_array_equal(
        pool.by_id("times_sampled", BEFORE), old.by_id("times_sampled", BEFORE)
    )
    assert not pool.by_id("times_sampled", ALL[250:]).any()
    if not hasattr(getattr(pool.selectors[0], "inner", pool.selectors[0]), "predicted"):
        return
    predicted = pool.by_id("predicted", ALL)
    np.testing.assert_array_equal(predicted[:250], old.by_id("predicted", BEFORE))
    never = ~np.isin(ALL, seen)
    for kind in range(4):  # a new prompt is believed to be what an old one is that was never seen
        alike = predicted[never & (labels_of(ALL) == kind)]
        assert len(np.unique(alike, axis=0)) == 1
    np.testing.assert_allclose(predicted.sum(axis=1), 1)


@pytest.mark.parametrize(
    "variant",
    [
        name  # the others draw from all that wait, or from a part of the pool
        for name, (method, given) in VARIANTS.items()
        if method != "dps_pooled" and "candidates" not in given
    ],
)
def test_the_scores_of_old_prompts_stay(variant, before):
    old, _ = before(variant)
    pool = grown(variant, before, 1)

    def ranks(of, size):
        chosen = of.select(size)
        order = np.argsort(chosen.ids)[np.isin(np.sort(chosen.ids), BEFORE)]
        return [field[order] for field in chosen]

    for found, expected in zip(ranks(pool, 400), ranks(old, 250), strict=True):
        np.testing.assert_array_equal(found, expected)


@every_method
def test_a_grown_pool_is_bit_equal_for_any_number_of_shards_and_over_another_resume(
    variant, before
):
    _, seen = before(variant)
    whole = grown(variant, before, 1).run(STEPS, 2 * STEPS)
    assert np.isin(np.concatenate([batch.ids for batch in whole]), ALL[250:]).any()
    assert_equal(grown(variant, before, 3).run(STEPS, 2 * STEPS), whole)
    first = grown(variant, before, 3)
    first.run(STEPS, STEPS)
    again = Pool(variant, ALL[::-1], 2, seen[::-1]).load(first.snapshots())
    assert_equal(again.run(2 * STEPS, STEPS), whole[STEPS:])


@every_method
def test_a_pool_may_grow_twice_and_go_back_between(variant, before):
    """A run that has grown goes back to a checkpoint of before, and then grows once more."""
    old, seen = before(variant)
    middle = Pool(variant, ALL[:300], 2, seen).load(old.snapshots())
    middle.run(STEPS, STEPS)
    last = Pool(variant, ALL, 3, middle.observed()).load(middle.snapshots())
    batches = last.run(2 * STEPS, STEPS)
    assert_equal(
        Pool(variant, ALL, 1, middle.observed()).load(middle.snapshots()).run(2 * STEPS, STEPS),
        batches,
    )
    # What was observed after the earlier checkpoint is numbered with the rest, and never seen again.
    back = Pool(variant, ALL, 3, middle.observed()).load(old.snapshots())
    np.testing.assert_array_equal(back.observed(), ALL[np.isin(ALL, seen)])
    back.run(STEPS, STEPS)


def test_rates_given_to_the_oracle_stay_with_their_prompts():
    old = Oracle(BEFORE)
    old.set_rates(np.linspace(0, 1, 250))
    pool = Oracle(ALL)
    pool.load_state(old.snapshot())
    everyone = pool.select(400)
    predicted = dict(zip(everyone.ids.tolist(), everyone.predicted[:, 2], strict=True))
    assert [predicted[id_] for id_ in BEFORE[:3].tolist()] == pytest.approx([0, 0, 0])
    assert predicted[BEFORE[249]] == 1
    assert predicted[ALL[300]] == 0.5**8


# --- pooled beliefs -------------------------------------------------------------------------------


def pooled(ids, labels, last=None, **settings):
    return PooledStore(ids, number_within(ids, labels, SEED, last), SEED, **settings)


def observe(store, ids):
    store.observe(Observation(np.sort(ids), np.ones(len(ids), np.int64)))


def turns(store, count):
    """Which prompts come when every batch is observed, of a store that forgets no row."""
    found = []
    for _ in range(count):
        found.append(store.select(1).ids[0])
        observe(store, found[-1:])
    return found


def by_hash(ids):
    return ids[np.argsort(hash_ids(ids, hash_key(SEED)))]


def test_those_never_seen_come_first_in_the_order_of_their_hash():
    ids = np.arange(60)
    store = pooled(ids[:30], None, rest=0, max_uses=1)
    seen = turns(store, 12)
    assert seen == by_hash(ids[:30])[:12].tolist()
    snapshot = store.snapshot()
    more = pooled(ids, None, seen, rest=0, max_uses=1)
    more.load_state(snapshot)
    never = by_hash(np.setdiff1d(ids, seen))
    order = turns(more, 60)
    assert order[:48] == never.tolist()
    assert len(set(order[48:])) == 12
    assert more.times_sampled(ids).min() == 1


def test_no_prompt_is_used_up_twice_before_all_were_once_though_the_pool_grows():
    ids = np.arange(400)
    store = pooled(ids[:200], ids[:200] % 3, rest=0, max_uses=1)
    for step in range(120):
        if step == 20:
            seen = ids[:200][store.times_sampled(ids[:200]) > 0]
            more = pooled(ids, ids % 4, seen, rest=0, max_uses=1)
            # Prompts of kind 3 were of other kinds before.
            more.load_state(store.snapshot())
            store = more
        batch = store.select(5).ids
        known = ids[: len(store)]
        times = store.times_sampled(known)
        assert store.times_sampled(batch).max() <= times[~np.isin(known, batch)].min()
        observe(store, batch)
    assert store.times_sampled(ids).max() == 2


def test_recent_prompts_keep_their_rows_and_wait_again_when_they_are_old():
    ids = np.arange(80)
    store = pooled(ids[:40], ids[:40] % 2, rest=0)
    observe(store, ids[:10])
    more = pooled(ids, ids % 2, ids[:10], rest=0)
    more.load_state(store.snapshot())
    assert more.metrics() == {"beliefs/active_rows": 10, "beliefs/prompts_seen": 10}
    assert set(more.select(80).ids) == set(ids)
    for _ in range(60):
        more.observe(Observation([], []))
    assert more.metrics()["beliefs/active_rows"] == 0
    np.testing.assert_array_equal(more.predicted(ids[:2]), more.predicted(ids[60:62]))
    assert set(more.select(80).ids) == set(ids)


def test_a_new_cluster_is_believed_to_be_the_mean_of_the_others():
    ids = np.arange(60)
    for observation in ("states", "counts"):
        store = PooledStore(
            ids[:40], number_within(ids[:40], ids[:40] % 2, 0), observation=observation
        )
        for step in range(4):
            some = ids[6 * step : 6 * step + 6]
            store.observe(Observation(some, some % 2, some % 2 * 4, np.full(6, 8)))
        kinds = np.where(ids < 40, ids % 2, 2)
        more = PooledStore(ids, number_within(ids, kinds, 0, ids[:24]), observation=observation)
        more.load_state(store.snapshot())
        zero, one, new = more.predicted([38, 39, 50])[:, 1]
        np.testing.assert_array_equal(more.predicted(ids[:40]), store.predicted(ids[:40]))
        assert zero < new < one


def test_a_snapshot_without_a_numbering_is_of_the_same_pool():
    ids = np.arange(40)
    store = pooled(ids, ids % 3)
    observe(store, store.select(10).ids)
    snapshot = store.snapshot()
    expected = store.select(40).ids.tolist()
    del snapshot["numbering"]  # as an earlier version wrote it
    again = pooled(ids, ids % 3)
    again.load_state(snapshot)
    assert again.select(40).ids.tolist() == expected


@pytest.mark.parametrize("last", [None, [3, 5]])
def test_a_pool_that_was_not_told_what_was_observed_is_refused(last):
    store = pooled(np.arange(20), None)
    observe(store, np.array([3, 4, 5]))
    more = pooled(np.arange(30), None, last)
    with pytest.raises(ValueError, match=r"`number_within` the ids of all .*prompts"):
        more.load_state(store.snapshot())


# --- numbers --------------------------------------------------------------------------------------


def test_moved_prompts_have_the_first_numbers_and_the_others_come_first():
    ids, labels = np.arange(100), np.arange(100) % 3
    usual, last = number_within(ids, labels, 1), np.array([50, 3, 4, 7, 999])
    clusters = number_within(ids, labels, 1, last)
    moved = np.isin(ids, last)
    for kind in range(3):
        for some in (moved & (labels == kind), ~moved & (labels == kind)):
            np.testing.assert_array_equal(
                np.argsort(clusters.ranks[some]), np.argsort(usual.ranks[some])
            )
        assert sorted(clusters.ranks[labels == kind]) == list(range(np.sum(labels == kind)))
    assert clusters.starts.tolist() == [1, 2, 1]
    assert clusters.moved.ids.tolist() == [3, 4, 7, 50]
    np.testing.assert_array_equal(clusters.moved.ranks, clusters.ranks[clusters.moved.ids])
    np.testing.assert_array_equal(clusters.moved.labels, labels[clusters.moved.ids])
    assert clusters.take(ids < 5)[2:] == clusters[2:]


def test_a_cluster_of_moved_prompts_alone_starts_with_the_first():
    clusters = number_within([1, 2, 3], [0, 0, 2], 1, [1, 2])
    assert clusters.starts.tolist() == [0, 0, 0]
    assert number_within([1, 2, 3], None, 1, []).moved is None


def test_the_numbering_is_that_of_ids_labels_and_what_comes_last_in_any_order():
    order = RNG.permutation(len(ALL))
    numbering = number_within(ALL, LABELS, 1).numbering
    assert number_within(ALL[order], LABELS[order], 1).numbering == numbering
    assert number_within(ALL, LABELS, 1, []).numbering == numbering
    others = [
        number_within(ALL[1:], LABELS[1:], 1),
        number_within(ALL, np.roll(LABELS, 1), 1),
        number_within(ALL, None, 1),
        number_within(ALL, LABELS, 1, ALL[:1]),
        number_within(ALL, LABELS, 1, ALL[1:2]),
    ]
    assert len({numbering, *(other.numbering for other in others)}) == 6
    with_last = number_within(ALL, LABELS, 1, ALL[:9])
    assert number_within(ALL[order], LABELS[order], 1, ALL[8::-1]).numbering == with_last.numbering
