"""What each selection method makes of what it saw, against sums done by hand and brute force."""

from math import comb, gamma

import numpy as np
import pytest

from dps_ray.beliefs.states import Observation
from dps_ray.hashing import hash_key
from dps_ray.selection.draws import betas, uniforms
from dps_ray.selection.methods import (
    GRESO,
    HistoryResampling,
    MaPP,
    MoPPS,
    Oracle,
    Recency,
    VarianceEMA,
)

IDS = np.random.default_rng(0).choice(10**9, 100, replace=False)
UNSOLVED, PARTIAL, SOLVED = 0, 1, 2


def observe(selector, ids, successes, k=8, **arguments):
    successes = np.broadcast_to(np.asarray(successes), len(ids))
    states = np.select([successes == 0, successes == k], [0, 2], 1)
    selector.observe(Observation(ids, states, successes, np.full(len(ids), k)), **arguments)


# --- history resampling ----------------------------------------------------------------------------


def test_history_resampling_draws_every_prompt_once_an_epoch():
    selector, drawn = HistoryResampling(IDS), []
    for _ in range(20):
        drawn.append(selector.select(10).ids)
        observe(selector, drawn[-1], 4)
    assert sorted(np.concatenate(drawn[:10])) == sorted(np.concatenate(drawn[10:])) == sorted(IDS)
    assert drawn[0].tolist() != drawn[10].tolist()


def test_history_resampling_drops_what_was_solved_and_keeps_mixed_and_unsolved():
    selector = HistoryResampling(IDS)
    right = np.array([8, 8, 0, 4, 1] * 20)
    observe(selector, IDS, right)
    assert selector.metrics()["history_resampling/dropped"] == 40
    second = selector.select(60).ids
    assert sorted(second) == sorted(IDS[right < 8])
    observe(selector, second, 4)
    assert sorted(selector.select(60).ids) == sorted(second)  # the third epoch too


def test_dropped_prompts_come_back_when_too_few_are_left_and_stay_if_they_are_no_longer_solved():
    selector = HistoryResampling(IDS)
    right = np.where(np.arange(100) < 70, 8, 4)
    observe(selector, IDS, right)
    batch = selector.select(50).ids
    assert set(batch[:30]) == set(IDS[70:])
    back = batch[30:]
    assert set(back) < set(IDS[:70])
    observe(selector, back, np.where(np.arange(20) < 5, 3, 8))
    assert selector.metrics()["history_resampling/dropped"] == 65
    assert set(selector.select(35).ids) == {*IDS[70:], *back[:5]}
    once = selector.select(85).ids[
        35:
    ]  # of the dropped, those visited once before those visited twice
    assert not set(once) & set(back)


# --- Beta ------------------------------------------------------------------------------------------


def test_a_and_b_of_mopps_after_two_visits():
    selector = MoPPS(IDS, decay=0.5)
    observe(selector, IDS[:2], [3, 0])  # a = 0.5 + 0.5 + 3 = 4, b = 0.5 + 0.5 + 5 = 6
    assert selector.parameters(IDS[:3]).tolist() == [[4, 6], [1, 9], [1, 1]]
    observe(selector, IDS[[1, 2]], [2, 8])  # the first was not rolled out
    assert selector.parameters(IDS[:3]).tolist() == [[4, 6], [3, 11], [9, 1]]


def test_mopps_with_decay_1_adds_up():
    selector = MoPPS(IDS, decay=1)
    for successes in (3, 5):
        observe(selector, IDS[:1], [successes])
    assert selector.parameters(IDS[:1]).tolist() == [[9, 9]]


def test_mopps_ranks_by_how_near_to_one_half_its_draws_are_and_draws_anew_each_step():
    selector = MoPPS(IDS, decay=1)
    for _ in range(40):
        observe(selector, IDS[:20], 4)  # Beta(161, 161)
        observe(selector, IDS[20:40], 8)  # Beta(321, 1)
    first = selector.select(100)
    assert np.all((first.score <= 0) & (first.score >= -0.5))
    of_easy = first.score[np.isin(first.ids, IDS[20:40])]
    of_even = first.score[np.isin(first.ids, IDS[:20])]
    assert of_easy.max() < -0.45
    assert of_even.min() > -0.15
    selector.observe(Observation([], []))
    assert selector.select(100).score.tolist() != first.score.tolist()


@pytest.mark.parametrize(("a", "b"), [(1, 1), (1, 6), (9, 1), (2, 2), (5, 12), (80, 90)])
def test_draws_have_the_beta_distribution(a, b):
    """Kolmogorov-Smirnov, level 0.1%, against I_x(a, b) = P(Binomial(a + b - 1, x) >= a)."""
    n = 20_000
    ties = np.arange(n, dtype=np.uint64)
    x = np.sort(betas(np.full(n, float(a)), np.full(n, float(b)), ties, 7))
    trials = a + b - 1
    cdf = sum(comb(trials, j) * x**j * (1 - x) ** (trials - j) for j in range(a, trials + 1))
    steps = np.arange(n + 1) / n
    assert max(np.abs(cdf - steps[1:]).max(), np.abs(cdf - steps[:-1]).max()) < 1.95 / np.sqrt(n)


@pytest.mark.parametrize(("a", "b"), [(1.5, 4.25), (1.0625, 1.0), (1 + 2**-40, 1.0), (33.3, 2.7)])
def test_draws_have_the_moments_of_the_beta_also_between_integers(a, b):
    n = 50_000
    x = betas(np.full(n, a), np.full(n, b), np.arange(n, dtype=np.uint64), 8)
    assert np.all((x > 0) & (x < 1))
    for order in (1, 2, 3, 4):
        moments = [
            np.prod([(a + i) / (a + b + i) for i in range(power)]) for power in (order, 2 * order)
        ]
        error = np.sqrt((moments[1] - moments[0] ** 2) / n)
        assert abs((x**order).mean() - moments[0]) < 4 * error


def test_a_never_seen_prompt_draws_the_same_by_either_way():
    ties = np.arange(1000, dtype=np.uint64)
    ones = np.ones(1000)
    np.testing.assert_allclose(betas(ones, ones, ties, 3), uniforms(ties, hash_key(3, 0, 1)))


def test_draws_of_different_keys_counters_and_prompts_are_unrelated():
    ties = np.arange(20_000, dtype=np.uint64)
    ones = np.ones(len(ties), np.int64)
    one, other = hash_key(0, 1), hash_key(0, 2)
    drawn = np.array(
        [
            uniforms(ties, one),
            uniforms(ties, other),
            uniforms(ties, one, ones),
            uniforms(ties, one, 2 * ones),
            np.roll(uniforms(ties, one), 1),
        ]
    )
    assert np.abs(np.corrcoef(drawn) - np.eye(5)).max() < 0.03
    np.testing.assert_allclose(drawn.mean(axis=1), 0.5, atol=0.01)
    np.testing.assert_allclose(drawn.var(axis=1), 1 / 12, atol=0.002)


@pytest.mark.parametrize("k", [2, 4, 8, 16])
def test_the_weight_of_mapp_is_that_of_a_beta_binomial(k):
    selector = MaPP(IDS, decay=0.5, group_size=k)
    observe(selector, IDS[:50], np.arange(50) % (k + 1), k)
    observe(selector, IDS[:25], np.arange(25) % k, k)

    def beta(a, b):
        return gamma(a) * gamma(b) / gamma(a + b)

    batch = selector.select(100)
    for prompt, predicted in zip(batch.ids, batch.predicted, strict=True):
        a, b = selector.parameters([prompt])[0]
        groups = [
            comb(k, right) * beta(a + right, b + k - right) / beta(a, b) for right in range(k + 1)
        ]
        expected = [groups[0], sum(groups[1:k]), groups[k]]
        np.testing.assert_allclose(predicted, expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(selector.weights([prompt])[0], expected[1], rtol=1e-9)


def test_mapp_samples_without_replacement_in_proportion_to_its_weights():
    """Ordered pairs of 5 prompts, chi-square with 19 degrees of freedom, level 0.1%."""
    selector = MaPP(IDS[:5], seed=1, decay=1)
    for successes in ([0, 1, 4, 8, 0], [0, 1, 4, 8, 1], [0, 0, 4, 8, 1]):
        observe(selector, IDS[:5], successes)
    weight = selector.weights(IDS[:5])
    assert weight.max() > 3 * weight.min()
    weight = weight / weight.sum()
    counts, n = np.zeros((5, 5)), 3000
    place = {prompt: at for at, prompt in enumerate(IDS[:5].tolist())}
    for _ in range(n):
        first, second = selector.select(2).ids.tolist()
        counts[place[first], place[second]] += 1
        selector.observe(Observation([], []))
    expected = n * weight[:, None] * weight / (1 - weight[:, None])
    off = ~np.eye(5, dtype=bool)
    assert counts[~off].sum() == 0
    assert ((counts - expected)[off] ** 2 / expected[off]).sum() < 43.8


def test_greedy_mapp_takes_the_largest_weights_and_holds_mirror_images_for_equal():
    selector = MaPP(IDS, greedy=True)
    observe(selector, IDS[:9], np.arange(9))
    batch = selector.select(9)
    order = [int(np.flatnonzero(prompt == IDS)[0]) for prompt in batch.ids]
    assert order[0] == 4
    assert set(order[1:3]) == {3, 5}
    assert batch.score[1] == batch.score[2]
    assert set(order[3:5]) == {2, 6}
    # 1 - 2 / 9 for one never seen; one of 8 right gives Beta(2, 8), which is less likely mixed
    np.testing.assert_allclose(batch.score[5:], 7 / 9)
    assert selector.weights(IDS[[1]])[0] < 7 / 9


# --- GRESO -----------------------------------------------------------------------------------------


def observe_states(selector, ids, state):
    selector.observe(Observation(ids, np.broadcast_to(state, len(ids))))


def observe_elsewhere(selector, *counts):
    """A step in which so many prompts of other shards were found unsolved, partial, solved."""
    states = np.repeat([UNSOLVED, PARTIAL, SOLVED], counts)
    ids, right = 10**9 + np.arange(len(states)), np.array([0, 4, 8])[states]
    whole = Observation(ids, states, right, np.full(len(states), 8))
    selector.observe(Observation([], []), whole)


def test_greso_counts_the_trailing_visits_without_variance():
    selector = GRESO(IDS, pool=100)
    for states in ([2, 0, 2, 1], [2, 0, 0, 2], [2, 1, 0, 2]):
        selector.observe(Observation(IDS[:4], states))
    assert selector.streaks(IDS[:5]).tolist() == [3, 0, -2, 2, 0]


def test_greso_passes_through_the_pool_by_epochs():
    selector, drawn = GRESO(IDS, pool=100), []
    for _ in range(20):
        drawn.append(selector.select(10).ids)
        observe_states(selector, drawn[-1], PARTIAL)
    assert sorted(np.concatenate(drawn[:10])) == sorted(np.concatenate(drawn[10:])) == sorted(IDS)
    assert drawn[0].tolist() != drawn[10].tolist()


@pytest.mark.parametrize(
    ("state", "visits", "keep"),
    [(SOLVED, 1, 0.5), (UNSOLVED, 1, 0.5), (UNSOLVED, 2, 0.25), (SOLVED, 8, 0.01)],
)
def test_greso_skips_with_one_minus_p_to_the_streak(state, visits, keep):
    ids = np.arange(20_000)
    selector = GRESO(ids, pool=10**9)  # the first epoch does not end: p stays at 0.5

    def epochs():
        batch = selector.select(len(ids))
        return np.floor(-batch.score)[batch.ids.argsort()]

    for _ in range(visits):
        due = epochs() + 1
        observe_states(selector, ids, state)
    skipped = epochs() - due
    for count in range(3):
        expected = keep * (1 - keep) ** count
        tolerance = 4 * np.sqrt(expected * (1 - expected) / len(ids))
        assert abs((skipped == count).mean() - expected) < tolerance
    assert skipped.min() == 0


def test_greso_never_skips_a_prompt_that_was_mixed_or_never_seen():
    selector = GRESO(IDS, pool=100)
    selector.observe(Observation(IDS[:50], [SOLVED] * 25 + [PARTIAL] * 25))
    assert set(selector.select(50).ids) == set(IDS[50:])
    observe_states(selector, IDS[50:], PARTIAL)
    batch = selector.select(100)
    second_epoch = batch.ids[np.floor(-batch.score) == 1]
    assert set(IDS[25:]) <= set(second_epoch)
    assert 75 < len(second_epoch) < 100  # some of the 25 solved are skipped


def test_p_easy_and_p_hard_stand_still_in_the_first_epoch_and_then_seek_their_targets():
    selector = GRESO(IDS, pool=1000)
    observe_elsewhere(selector, 500, 0, 499)
    assert (selector.p_easy, selector.p_hard) == (0.5, 0.5)
    observe_elsewhere(selector, 0, 0, 0)
    observe_elsewhere(selector, 0, 0, 500)
    assert (selector.p_easy, selector.p_hard) == (0.5, 0.5)
    observe_elsewhere(selector, 0, 91, 9)  # 9% easy: too many; no hard: too few
    assert (selector.p_easy, selector.p_hard) == (0.49, 0.51)
    observe_elsewhere(selector, 17, 75, 8)  # 17% hard: too many; 8% easy: too few
    assert (selector.p_easy, selector.p_hard) == (0.5, 0.5)
    observe_elsewhere(selector, 0, 0, 0)
    assert (selector.p_easy, selector.p_hard) == (0.5, 0.5)
    for _ in range(60):
        observe_elsewhere(selector, 0, 0, 5)
    assert (selector.p_easy, selector.p_hard) == (0.05, 0.95)


def test_greso_holds_the_shares_without_variance_near_their_targets():
    ids = np.arange(3000)
    selector, shares = GRESO(ids, pool=3000), []
    state_of = np.select([ids % 10 < 3, ids % 10 < 7], [SOLVED, UNSOLVED], PARTIAL)
    for _ in range(250):
        batch = selector.select(100).ids
        selector.observe(Observation(batch, state_of[batch]))
        shares.append(np.bincount(state_of[batch], minlength=3) / 100)
    hard, _, easy = np.mean(shares[150:], axis=0)
    assert abs(easy - 0.083) < 0.04
    assert abs(hard - 0.167) < 0.05


# --- controls --------------------------------------------------------------------------------------


def test_variance_ema_keeps_seven_tenths_of_the_past():
    selector = VarianceEMA(IDS)
    observe(selector, IDS[:2], [4, 0])
    np.testing.assert_allclose(selector.variances(IDS[:3]), [1.4 / 3 + 0.3, 1.4 / 3, 2 / 3])
    observe(selector, IDS[:1], [2])
    np.testing.assert_allclose(selector.variances(IDS[:1]), 0.7 * (1.4 / 3 + 0.3) + 0.3 * 0.75)


def test_variance_ema_takes_varied_before_new_before_uniform_outcomes():
    selector = VarianceEMA(IDS)
    observe(selector, IDS[:4], [4, 2, 1, 8])
    batch = selector.select(100).ids
    assert batch[:2].tolist() == IDS[:2].tolist()
    assert batch[-2:].tolist() == IDS[2:4].tolist()


def test_recency_takes_the_last_partial_then_the_new_then_the_oldest():
    selector = Recency(IDS[:8])
    for prompt, state in ((0, 1), (1, 0), (2, 1), (3, 2), (4, 1), (0, 0)):
        observe_states(selector, IDS[[prompt]], state)
    batch = selector.select(8).ids
    # partial at steps 5 and 3; never seen; not partial at steps 2, 4 and 6
    assert batch[:2].tolist() == IDS[[4, 2]].tolist()
    assert set(batch[2:5]) == set(IDS[[5, 6, 7]])
    assert batch[5:].tolist() == IDS[[1, 3, 0]].tolist()


def test_recency_breaks_ties_by_hash():
    one, other = (Recency(IDS, seed=seed).select(20).ids for seed in (0, 1))
    assert one.tolist() != other.tolist()


def test_the_oracle_takes_the_largest_true_chance_of_a_mixed_group():
    oracle = Oracle(IDS[:5], group_size=4)
    rates = np.array([0.0, 0.9, 0.4, 1.0, 0.2])
    oracle.set_rates(rates)
    batch = oracle.select(5)
    assert batch.ids[:3].tolist() == IDS[[2, 4, 1]].tolist()
    np.testing.assert_allclose(
        batch.score,
        [1 - 0.4**4 - 0.6**4, 1 - 0.2**4 - 0.8**4, 1 - 0.9**4 - 0.1**4, 0, 0],
        atol=1e-12,
    )
    np.testing.assert_allclose(batch.predicted[0], [0.6**4, 1 - 0.4**4 - 0.6**4, 0.4**4])
    oracle.set_rates(rates[::-1])
    assert oracle.select(1).ids[0] == IDS[2]
    assert oracle.select(2).ids[1] == IDS[0]
