"""What clusters tell: against plain loops, and against how the outcomes were made."""

import numpy as np
import pytest

from dps_ray.beliefs import rates
from dps_ray.selection.pooled.rate_dynamics import RateDynamics
from dps_ray.selection.pooled.shrinkage import GREATEST_STRENGTH, shrunk
from dps_ray.selection.pooled.state_dynamics import FIRST_PRIOR, MOVES_PRIOR, Found, StateDynamics

RNG = np.random.default_rng(0)
K = 8


# --- shrinkage -------------------------------------------------------------------------------------


def drawn(strength, clusters, size, seed):
    """Counts of `size` outcomes in each cluster, whose shares are Dirichlet of this strength."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(strength * np.array([0.5, 0.3, 0.2]), clusters)
    return np.array([rng.multinomial(size, share) for share in shares]).T.astype(float), shares.T


@pytest.mark.parametrize("strength", [2, 8, 40])
def test_the_strength_of_the_pool_is_found_from_the_spread_between_clusters(strength):
    found = [
        shrunk(counts, counts.sum(axis=0), FIRST_PRIOR)
        for counts, _ in (drawn(strength, 300, 30, seed) for seed in range(10))
    ]
    assert np.median([f.strength for f in found]) == pytest.approx(strength, rel=0.15)
    np.testing.assert_allclose(found[0].pool, [0.5, 0.3, 0.2], atol=0.04)


@pytest.mark.parametrize("strength", [2, 8, 40])
def test_shrunk_shares_are_nearer_the_truth_than_those_of_clusters_or_pool_alone(strength):
    counts, truth = drawn(strength, 300, 12, seed=1)
    found = shrunk(counts, counts.sum(axis=0), FIRST_PRIOR)

    def error(shares):
        return ((shares - truth) ** 2).sum()

    assert error(found.clusters) < error(counts / counts.sum(axis=0))
    assert error(found.clusters) < error(found.pool[:, None])


def test_clusters_that_differ_by_chance_alone_are_the_pool():
    worst = []
    for seed in range(20):
        counts, _ = drawn(1e9, 20, 15, seed)
        found = shrunk(counts, counts.sum(axis=0), FIRST_PRIOR)
        worst.append(np.abs(found.clusters - found.pool[:, None]).max())
    assert np.median(worst) < 0.08  # single clusters of 15 are off by 0.3


def test_a_cluster_never_visited_is_the_mean_cluster_not_the_mean_visit():
    counts = np.array([[900.0, 1, 1, 0], [0, 9, 9, 0], [0, 0, 0, 0]])
    found = shrunk(counts, counts.sum(axis=0), FIRST_PRIOR)
    np.testing.assert_allclose(found.clusters[:, 3], found.pool)
    assert found.pool[1] > 0.5


@pytest.mark.parametrize(
    "counts",
    [np.zeros((3, 5)), np.eye(3)[:, :1] * 4, np.ones((3, 0)), np.diag([3.0, 2, 1])],
    ids=["nothing", "one cluster", "no cluster", "all apart"],
)
def test_shares_are_distributions_whatever_was_counted(counts):
    found = shrunk(counts, counts.sum(axis=0), FIRST_PRIOR)
    np.testing.assert_allclose(found.clusters.sum(axis=0), 1)
    assert (found.clusters > 0).all()
    assert found.strength <= GREATEST_STRENGTH


# --- states ----------------------------------------------------------------------------------------


class Loops:
    """`StateDynamics` one prompt at a time, as its documentation has it."""

    def __init__(self, clusters, memory, decay, strength):
        self.memory, self.decay, self.strength = memory, decay, strength
        self.first = np.zeros((clusters, 3))
        self.moves = np.zeros((clusters, 3, 3))  # [to, from]
        self.prompts = {}  # evidence, posterior, predicted
        self.label = {}

    def phi(self):
        columns = [
            shrunk(self.moves[:, :, j].T, self.moves[:, :, j].sum(axis=1), MOVES_PRIOR[:, j])
            for j in range(3)
        ]
        return np.stack([column.clusters.T for column in columns], axis=2)  # [cluster, to, from]

    def step(self, found):
        before, visited = self.phi(), set()
        new_moves, new_first = np.zeros_like(self.moves), np.zeros_like(self.first)
        for prompt, (label, state) in found.items():
            if prompt not in self.prompts:
                new_first[label, state] += 1
                visited.add(label)
                continue
            evidence, posterior, _ = self.prompts[prompt]
            alpha = self.strength * before[label] + evidence
            share = posterior * alpha[state] / alpha.sum(axis=0)
            new_moves[label, state] += share / share.sum()
        for label in range(len(self.first)):
            self.first[label] *= self.memory if label in visited else self.memory**0.25
        self.first += new_first
        for prompt, (evidence, posterior, predicted) in self.prompts.items():
            evidence *= self.decay
            if prompt in found:
                label, state = found[prompt]
                alpha = self.strength * before[label] + evidence / self.decay
                share = posterior * alpha[state] / alpha.sum(axis=0)
                evidence[state] += share / share.sum()
                predicted = np.eye(3)[state]
            self.prompts[prompt] = [evidence, predicted, None]
        self.moves = self.memory * self.moves + new_moves
        after = self.phi()
        for prompt, (label, state) in found.items():
            if prompt not in self.prompts:
                self.label[prompt] = label
                self.prompts[prompt] = [np.zeros((3, 3)), np.eye(3)[state], None]
        for prompt, row in self.prompts.items():
            alpha = self.strength * after[self.label[prompt]] + row[0]
            row[2] = alpha / alpha.sum(axis=0) @ row[1]

    def waiting(self):
        effective = (1 + self.memory) * self.first.sum(axis=1)
        return shrunk(self.first.T, effective, FIRST_PRIOR).clusters


def test_states_move_as_they_do_one_prompt_at_a_time():
    clusters, label_of = 4, RNG.integers(4, size=60)
    dynamics, loops = StateDynamics(clusters, 0.8, 0.6, 5.0), Loops(clusters, 0.8, 0.6, 5.0)
    rows, who = np.empty((15, 0)), []
    for _ in range(25):
        batch = RNG.choice(60, 10, replace=False)
        states = RNG.integers(3, size=10).astype(np.int8)
        again = [i for i, prompt in enumerate(batch) if prompt in who]
        first = [i for i, prompt in enumerate(batch) if prompt not in who]

        def of(places, states=states):
            return Found(states[places], np.zeros(len(places)), np.full(len(places), K))

        rows, new = dynamics.step(
            rows,
            label_of[who].astype(int),
            np.array([who.index(batch[i]) for i in again], dtype=int),
            of(again),
            label_of[batch[first]],
            of(first),
        )
        rows, who = np.concatenate([rows, new], axis=1), [*who, *batch[first].tolist()]
        loops.step({int(p): (int(label_of[p]), int(z)) for p, z in zip(batch, states, strict=True)})
        np.testing.assert_allclose(dynamics.waiting, loops.waiting(), atol=1e-12)
        expected = np.array([loops.prompts[prompt][2] for prompt in who]).T
        np.testing.assert_allclose(dynamics.predicted(rows), expected, atol=1e-12)


def test_transitions_of_clusters_are_found_from_prompts_tried_again():
    """A hidden chain a cluster, visited at random steps."""
    truth = np.array(
        [[[0.7, 0.1, 0.0], [0.3, 0.8, 0.2], [0.0, 0.1, 0.8]], [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]]
    )
    labels, states = np.repeat([0, 1], 100), RNG.integers(3, size=200)
    dynamics = StateDynamics(2, cluster_decay=0.995, decay=0.7, strength=50.0)
    nobody = np.empty(0, dtype=int)
    none = Found(nobody.astype(np.int8), nobody, nobody)
    first = Found(states.astype(np.int8), states, states)
    rows = dynamics.step(np.empty((15, 0)), nobody, nobody, none, labels, first)[1]
    for _ in range(400):
        for cluster in (0, 1):
            mine = np.flatnonzero(labels == cluster)
            steps = truth[cluster][:, states[mine]].cumsum(axis=0)
            states[mine] = (RNG.random(100) > steps).sum(axis=0)
        again = np.sort(RNG.choice(200, 20, replace=False))
        found = Found(states[again].astype(np.int8), again, again)
        rows = dynamics.step(rows, labels, again, found, nobody, none)[0]
    np.testing.assert_allclose(dynamics.transitions[:, :, 0], truth[0], atol=0.12)
    np.testing.assert_allclose(dynamics.transitions[:, :, 1], truth[1], atol=0.12)


# --- counts ----------------------------------------------------------------------------------------


def visits(rate_of, labels, rng):
    right = rng.binomial(K, rate_of[labels])
    states = np.select([right == 0, right == K], [0, 2], 1).astype(np.int8)
    return Found(states, right, np.full(len(labels), K))


def test_counts_tell_clusters_apart_from_first_visits_alone():
    rate_of, rng = np.array([0.03, 0.5, 0.97]), np.random.default_rng(1)
    dynamics, nobody = RateDynamics(3, 0.9, K), np.empty(0, dtype=int)
    none = Found(nobody.astype(np.int8), nobody, nobody)
    for _ in range(15):
        labels = rng.integers(3, size=12)
        dynamics.step(np.empty((15, 0)), nobody, nobody, none, labels, visits(rate_of, labels, rng))
    mixed = 1 - rate_of**K - (1 - rate_of) ** K
    np.testing.assert_allclose(dynamics.waiting[1], mixed, atol=0.2)  # posteriors lean together


def test_a_prompt_tried_again_has_the_filter_of_the_rate_model():
    rng, dynamics = np.random.default_rng(2), RateDynamics(2, 0.9, K)
    nobody = np.empty(0, dtype=int)
    none = Found(nobody.astype(np.int8), nobody, nobody)
    labels = np.zeros(6, dtype=int)
    found = visits(np.array([0.4]), labels, rng)
    rows = dynamics.step(np.empty((15, 0)), nobody, nobody, none, labels, found)[1]
    again = np.array([1, 4])
    coming = rates.predict(dynamics._transitions, rows)
    found = visits(np.array([0.4]), labels[again], rng)
    likely = rates.likelihood(rates.rate_grid(), found.successes, found.responses)
    moved = dynamics.step(rows, labels, again, found, nobody, none)[0]
    np.testing.assert_array_equal(moved[:, [0, 2, 3, 5]], coming[:, [0, 2, 3, 5]])
    np.testing.assert_array_equal(moved[:, again], rates.condition(coming[:, again], likely))
    np.testing.assert_allclose(moved.sum(axis=0), 1)
