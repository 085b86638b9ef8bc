"""Who waits, and who of them comes first: against lists of prompts and single draws."""

import numpy as np
import pytest

from dps_ray.selection.pool.index import PromptIndex
from dps_ray.selection.pooled import number_within, race
from dps_ray.selection.pooled.race import first_waiting
from dps_ray.selection.pooled.waiting import Waiting, keys_of

NOBODY = np.empty(0, dtype=np.int64)


def waiting_of(ids, labels, here=slice(None), seed=0):
    """Of these ids, and the index by whose positions they go."""
    clusters, index = number_within(ids, labels, seed), PromptIndex(ids[here], seed)
    rows = np.arange(len(ids))[here]
    by_position = np.empty(len(rows), dtype=int)
    by_position[index.positions(ids[rows])] = rows
    return Waiting(clusters.take(by_position)), index


# --- numbers and rings -----------------------------------------------------------------------------


def test_prompts_of_a_cluster_are_numbered_in_a_seeded_order_whatever_order_they_come_in():
    ids, labels = np.arange(40), np.arange(40) % 3
    clusters = number_within(ids, labels, 0)
    assert clusters.sizes.tolist() == [14, 13, 13]
    for label in range(3):
        ranks = clusters.ranks[labels == label]
        assert sorted(ranks) == list(range(len(ranks)))
        assert ranks.tolist() != sorted(ranks)
    order = np.random.default_rng(0).permutation(40)
    again = number_within(ids[order], labels[order], 0)
    np.testing.assert_array_equal(again.ranks, clusters.ranks[order])
    assert number_within(ids, labels, 1).ranks.tolist() != clusters.ranks.tolist()


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        ([0, 1], "3 integers"),
        ([0, -1, 0], "cluster -1"),
        ([0.0, 1, 2], "3 integers"),
        ([0, 2**31, 1], "cluster 2147"),
    ],
)
def test_what_is_no_clustering_is_named(labels, named):
    with pytest.raises(ValueError, match=named):
        number_within([1, 2, 3], labels, 0)


class Lists:
    """`Waiting`, a list of keys for each ring: who is behind, then from the head on."""

    def __init__(self, sizes):
        self.rings = [[keys_of(c, r).item() for r in range(size)] for c, size in enumerate(sizes)]
        self.heads, self.behind, self.away = [0] * len(sizes), [], []

    def order(self, c):
        ring = self.rings[c][self.heads[c] :] + self.rings[c][: self.heads[c]]
        late = sorted(k for k in self.behind if k >> 32 == c)
        return late + [k for k in ring if k not in self.away and k not in self.behind]

    def take(self, keys):
        late = [k for k in keys if k in self.behind]
        self.behind = [k for k in self.behind if k not in late]
        self.away += late
        for c in range(len(self.rings)):
            taken = [k for k in keys if k >> 32 == c and k not in late]
            ahead = [k for k in self.order(c) if k not in self.behind][: len(taken)]
            if taken:
                self.heads[c] = (self.rings[c].index(ahead[-1]) + 1) % len(self.rings[c])
            self.behind += [k for k in ahead if k not in taken]
            self.away += taken


def test_who_comes_first_second_and_so_on_is_as_in_plain_lists():
    rng, sizes = np.random.default_rng(0), [13, 1, 30]
    labels = np.repeat([0, 1, 2], sizes)
    waiting, _ = waiting_of(np.arange(44), labels)
    lists, history = Lists(sizes), []
    for _ in range(300):
        for c in range(3):
            expected = lists.order(c)
            assert waiting.counts[c] == len(expected)
            numbers = np.arange(len(expected))
            assert waiting.find(np.full(len(numbers), c), numbers)[0].tolist() == expected
        everyone = [k for c in range(3) for k in lists.order(c)[: rng.integers(6)]]
        taken = [k for k in everyone if rng.random() < 0.8]
        waiting.take(np.array(taken, dtype=np.int64))
        lists.take(taken)
        history.append(taken)
        if len(history) > 4:
            back = history.pop(0)
            waiting.put_back(np.array(back, dtype=np.int64))
            lists.away = [k for k in lists.away if k not in back]
    assert waiting.laps.min() > 10


def test_a_ring_is_passed_through_in_order_and_begun_again():
    waiting, _ = waiting_of(np.arange(12), np.zeros(12, dtype=int))
    taken, laps = [], []
    for _ in range(5):  # 3 at a time; they come back two steps later
        head, lap = waiting.find(np.zeros(3, int), np.arange(3))
        waiting.take(head)
        taken.append(head)
        laps.append(lap)
        if len(taken) > 1:
            waiting.put_back(taken[-2])
    assert np.concatenate(taken).tolist() == [*range(12), 0, 1, 2]
    assert np.concatenate(laps).tolist() == [0] * 12 + [1] * 3
    assert waiting.counts.tolist() == [9]


def test_a_prompt_that_was_passed_over_comes_first_until_it_is_taken():
    waiting, _ = waiting_of(np.arange(12), np.zeros(12, dtype=int))
    waiting.take(np.array([1, 2]))
    assert waiting.find(np.zeros(3, int), np.arange(3))[0].tolist() == [0, 3, 4]
    waiting.take(np.array([0]))
    assert waiting.find(np.zeros(3, int), np.arange(3))[0].tolist() == [3, 4, 5]


# --- draws -----------------------------------------------------------------------------------------


def test_clusters_are_drawn_by_how_many_wait_times_their_weight():
    """Which cluster the first of 100 + 20 + 5 comes from, and how many of the first ten do."""
    ids = np.arange(125)
    labels = np.repeat([0, 1, 2], [100, 20, 5])
    log_weights = np.log([1.0, 4.0, 0.5])
    waiting, index = waiting_of(ids, labels)
    first, tens = np.zeros(3), np.zeros(3)
    for key in range(4000):
        found, scores = first_waiting(waiting, log_weights, 10, key, NOBODY, laps=False)
        chosen = labels[index.ids(found[np.argsort(-scores)[:10]])]
        first[chosen[0]] += 1
        tens += np.bincount(chosen, minlength=3)
    mass = np.array([100, 80, 2.5])
    np.testing.assert_allclose(first / 4000, mass / mass.sum(), atol=0.025)

    rng = np.random.default_rng(0)
    noise = rng.gumbel(size=(4000, 125)) + log_weights[labels]
    expected = np.bincount(labels[np.argsort(-noise, axis=1)[:, :10]].ravel(), minlength=3)
    np.testing.assert_allclose(tens / 40_000, expected / 40_000, atol=0.01)


def test_draws_of_later_steps_are_as_new_ones_although_the_order_is_fixed():
    """How many of ten are of the first cluster varies from step to step as in single draws."""
    ids, labels = np.arange(4000), np.repeat([0, 1], [1000, 3000])
    waiting, index = waiting_of(ids, labels)
    counts = []
    for key in range(300):
        found, scores = first_waiting(waiting, np.zeros(2), 10, key, NOBODY, laps=False)
        found = found[np.argsort(-scores)[:10]]
        waiting.take(keys_of(waiting.labels[found], waiting.ranks[found]))
        counts.append(np.count_nonzero(labels[index.ids(found)] == 0))
    assert np.mean(counts) == pytest.approx(2.5, abs=0.3)
    assert np.var(counts) == pytest.approx(10 * 0.25 * 0.75, rel=0.3)


@pytest.mark.parametrize("size", [1, 7, 40, 200])
def test_the_first_are_the_same_for_any_split_and_any_number_asked_for(size):
    ids = np.random.default_rng(3).choice(10**9, 300, replace=False)
    labels = ids % 4
    log_weights = np.array([0.0, -1.0, 2.0, 0.5])

    def drawn(here, size):
        waiting, index = waiting_of(ids, labels, here)
        found, scores = first_waiting(waiting, log_weights, size, 77, NOBODY, laps=False)
        return dict(zip(index.ids(found).tolist(), scores.tolist(), strict=True))

    everyone = drawn(slice(None), 300)
    assert len(everyone) == 300
    best = sorted(everyone, key=everyone.get, reverse=True)[:size]
    parts = {}
    for shard in range(3):
        parts |= drawn(np.flatnonzero(ids % 7 % 3 == shard), size)
    assert {prompt: parts[prompt] for prompt in best} == {p: everyone[p] for p in best}


def test_the_cost_of_a_draw_goes_by_clusters_and_batch_and_not_by_the_pool(monkeypatch):
    drawn = []
    uniforms = race.uniforms
    monkeypatch.setattr(
        race, "uniforms", lambda words, key: drawn.append(len(words)) or uniforms(words, key)
    )
    costs = []
    for prompts in (3_000, 300_000):
        waiting, _ = waiting_of(np.arange(prompts), np.arange(prompts) % 100)
        drawn.clear()
        first_waiting(waiting, np.zeros(100), 64, 5, NOBODY, laps=False)
        costs.append(sum(drawn))
    assert max(costs) < 10 * (100 + 64)
    assert costs[1] < 1.5 * costs[0]
