"""Rates that move, against the enumeration of every path that a rate can have taken."""

from itertools import product
from math import comb

import numpy as np
import pytest

from dps_ray.beliefs import rates
from dps_ray.beliefs.rates import Pool

GRID = rates.rate_grid()
P = GRID.rates


def band(bins, width, seed):
    """Transitions without a pattern: (2w + 1, K), and the same as a matrix (K, K), [to, from]."""
    rng = np.random.default_rng(seed)
    full = np.triu(np.tril(rng.random((bins, bins)) + 0.05, width), -width)
    full /= full.sum(axis=0)
    banded = np.zeros((2 * width + 1, bins))
    for to, start in product(range(bins), repeat=2):
        if abs(to - start) <= width:
            banded[width + to - start, start] = full[to, start]
    return banded, full


def enumerate_paths(grid, full, start, history):
    """P(bin at the end | all seen), P(the last move | all seen) as (to, from), of a history of (s, k) or None."""
    bins = len(start)
    end, move = np.zeros(bins), np.zeros((bins, bins))
    for path in product(range(bins), repeat=len(history) + 1):
        weight = start[path[0]]
        for before, here, seen in zip(path, path[1:], history, strict=False):
            weight *= full[here, before]
            if seen is not None:
                s, k = seen
                weight *= comb(k, s) * grid.rates[here] ** s * (1 - grid.rates[here]) ** (k - s)
        end[path[-1]] += weight
        move[path[-1], path[-2]] += weight
    return end / end.sum(), move / move.sum()


HISTORIES = [
    [(3, 8)],
    [(0, 8), (8, 8)],
    [(1, 2), None, (5, 6)],
    [None, (4, 4), (0, 1), None, (7, 16)],
    [None, None],
]


@pytest.mark.parametrize(("bins", "width"), [(4, 1), (5, 2)])
@pytest.mark.parametrize("history", HISTORIES)
def test_filtered_beliefs_and_the_last_move_equal_the_sum_over_all_paths(bins, width, history):
    grid = rates.rate_grid(bins, reach=2.0)
    banded, full = band(bins, width, seed=bins)
    start = np.random.default_rng(1).dirichlet(np.ones(bins))
    before = start[:, None]
    for seen in history:
        predicted = rates.predict(banded, before)
        filtered = predicted
        if seen is not None:
            filtered = rates.condition(predicted, rates.likelihood(grid, [seen[0]], [seen[1]]))
        moves = rates.count_moves(banded, before, predicted, filtered)[:, :, 0]
        before = filtered
    end, move = enumerate_paths(grid, full, start, history)
    np.testing.assert_allclose(before[:, 0], end, rtol=1e-12)
    for to, start_bin in product(range(bins), repeat=2):
        if abs(to - start_bin) <= width:
            assert moves[width + to - start_bin, start_bin] == pytest.approx(move[to, start_bin])
    assert moves.sum() == pytest.approx(1)


@pytest.mark.parametrize("k", [1, 2, 8, 33])
def test_a_group_is_mixed_as_often_as_the_binomial_says(k):
    belief = np.random.default_rng(k).dirichlet(np.ones(15), 3).T
    chance = [comb(k, s) * P**s * (1 - P) ** (k - s) for s in range(k + 1)]
    expected = np.stack([chance[0], sum(chance[1:k], np.zeros(15)), chance[k]]) @ belief
    if k == 1:  # one response is right or wrong, and never both
        expected[1] = 0
    np.testing.assert_allclose(rates.group_states(GRID, belief, k), expected, atol=1e-14)
    each = rates.group_states(GRID, belief, np.array([k, 4, k]))
    np.testing.assert_array_equal(each[:, 2], rates.group_states(GRID, belief, k)[:, 2])


def test_bins_are_equally_spaced_in_logit_and_alike_from_both_ends():
    np.testing.assert_allclose(np.diff(np.log(P / (1 - P))), 1.0)
    np.testing.assert_array_equal(GRID.log_right, GRID.log_wrong[::-1])


def test_right_and_wrong_swapped_is_the_grid_turned_round():
    belief = np.random.default_rng(0).dirichlet(np.ones(15), 5).T
    s, k = np.array([0, 1, 4, 7, 8]), np.full(5, 8)
    one = rates.condition(belief, rates.likelihood(GRID, s, k))
    other = rates.condition(belief[::-1], rates.likelihood(GRID, k - s, k))
    np.testing.assert_allclose(one, other[::-1], rtol=1e-14)


def test_the_bits_of_a_belief_do_not_depend_on_which_prompts_share_its_array():
    rng = np.random.default_rng(0)
    phi = rates.transitions(Pool(rng.random((5, 15)), np.ones(15)))
    before = rng.dirichlet(np.ones(15), 77).T
    k = rng.integers(1, 30, 77)
    s = rng.integers(0, k + 1)

    def step(columns):
        predicted = rates.predict(phi, before[:, columns])
        likely = rates.likelihood(GRID, s[columns], k[columns])
        filtered = rates.condition(predicted, likely)
        moves = rates.count_moves(phi, before[:, columns], predicted, filtered)
        return predicted, filtered, moves, rates.group_states(GRID, filtered, k[columns])

    whole = step(slice(None))
    for n in range(77):
        for alone, together in zip(step(slice(n, n + 1)), whole, strict=True):
            np.testing.assert_array_equal(alone[..., 0], together[..., n])


def test_sums_of_parts_are_the_sum_of_the_whole_to_the_bit():
    values = np.random.default_rng(0).random((5, 15, 1_000))
    whole = rates.pooled_sum(values)
    homes = np.random.default_rng(1).integers(0, 7, 1_000)
    parts = [rates.pooled_sum(values[..., homes == home]) for home in range(7)]
    np.testing.assert_array_equal(sum(parts), whole)
    np.testing.assert_array_equal(rates.pooled_sum(values[..., ::-1]), whole)
    np.testing.assert_allclose(whole / rates.QUANTA, values.sum(axis=-1), rtol=1e-9)


@pytest.mark.parametrize("k", [1, 8, 1024])
def test_no_history_however_unlikely_gives_anything_but_a_distribution(k):
    phi = rates.transitions(rates.initial_pool(15))
    ends = np.array([[k, 0], [0, k], [k, k], [0, 0], [k // 2, 0], [0, k // 2], [k, 0]] * 3)
    before = np.repeat(rates.fresh_belief(rates.initial_pool(15)), 2, axis=1)
    pool = rates.initial_pool(15)
    with np.errstate(all="raise", under="ignore"):
        for successes in ends:
            predicted = rates.predict(phi, before)
            likely = rates.likelihood(GRID, successes, np.full(2, k))
            filtered = rates.condition(predicted, likely)
            moves = rates.count_moves(phi, before, predicted, filtered)
            assert (moves >= 0).all()
            assert (moves.sum(axis=(0, 1)) <= 1 + 1e-9).all()
            found = rates.pooled_sum(filtered)
            pool = rates.learn(pool, rates.pooled_sum(moves), found, 2, 0.0)
            phi = rates.transitions(pool)
            for belief in (
                filtered,
                rates.fresh_belief(pool),
                rates.group_states(GRID, filtered, k),
            ):
                assert belief.sum(axis=0) == pytest.approx(1)
                assert belief.min() >= 0
            before = filtered


def test_a_rate_that_went_from_one_end_to_the_other_in_a_step_is_believed_at_once():
    phi = rates.transitions(rates.initial_pool(15))
    at_the_top = np.zeros((15, 1))
    at_the_top[-1] = 1
    predicted = rates.predict(phi, at_the_top)
    filtered = rates.condition(predicted, rates.likelihood(GRID, [0], [1024]))
    assert filtered[:2].sum() > 0.99
    assert (
        rates.count_moves(phi, at_the_top, predicted, filtered).sum() < 1e-6
    )  # no move of the band


# --- what all prompts together teach -----------------------------------------------------------------


def test_expected_moves_sum_to_one_and_stay_on_the_grid():
    moves = np.random.default_rng(0).random((5, 15)) * 100
    for by, start in product(range(-2, 3), range(15)):
        if not 0 <= start + by < 15:
            moves[2 + by, start] = 0
    for pool in (rates.initial_pool(15), Pool(moves, np.ones(15))):
        phi = rates.transitions(pool)
        np.testing.assert_allclose(phi.sum(axis=0), 1.0)
        assert not phi[:2, 0].any()
        assert not phi[3:, -1].any()
        np.testing.assert_allclose(rates.predict(phi, np.eye(15)).sum(axis=0), 1.0)
    np.testing.assert_allclose(rates.transitions(rates.initial_pool(15))[:, 7], rates.MOVES)


def test_a_bin_without_counts_of_its_own_moves_as_the_others_do():
    moves = np.zeros((5, 15))
    moves[3, 5:9] = 1000  # all up by one
    phi = rates.transitions(Pool(moves, np.ones(15)))
    assert phi[3, 12] > 0.95
    assert phi[3, 6] > phi[3, 12]


def test_too_few_bins_and_a_grid_without_extent_are_refused():
    with pytest.raises(ValueError, match="4 bins are too few"):
        rates.initial_pool(4)
    for bins, reach in ((1, 7.0), (15, 0.0), (15, float("inf")), (15, float("nan"))):
        with pytest.raises(ValueError, match="a grid of"):
            rates.rate_grid(bins, reach)


def follow(chances, steps=120, prompts=300, k=32):
    """Phi after following prompts that move down, stay or move up by these chances, all rolled out each step.

    Every fifth step others take their place, so that none arrives at an end of the grid.
    """
    rng = np.random.default_rng(0)
    pool = rates.initial_pool(15)
    phi = rates.transitions(pool)
    for step in range(steps):
        if step % 5 == 0:
            truth = rng.integers(5, 10, prompts)
            posterior = np.zeros((15, prompts))
            posterior[truth, np.arange(prompts)] = 1
        truth = truth + rng.choice([-1, 0, 1], prompts, p=chances)
        predicted = rates.predict(phi, posterior)
        likely = rates.likelihood(GRID, rng.binomial(k, P[truth]), np.full(prompts, k))
        filtered = rates.condition(predicted, likely)
        moves = rates.pooled_sum(rates.count_moves(phi, posterior, predicted, filtered))
        pool = rates.learn(pool, moves, np.zeros(15, np.int64), 0, 0.9)
        phi, posterior = rates.transitions(pool), filtered
    return phi


@pytest.mark.parametrize("chances", [(0.05, 0.7, 0.25), (0.02, 0.96, 0.02), (0.25, 0.7, 0.05)])
def test_the_drift_of_a_population_is_recovered_whichever_way_it_goes(chances):
    phi = follow(chances)
    drift = np.arange(-2, 3) @ phi[:, 4:11]
    assert drift.mean() == pytest.approx(chances[2] - chances[0], abs=0.05)


def test_a_fresh_prompt_is_believed_to_be_as_the_latest_first_visits_found_others():
    rng, pool = np.random.default_rng(0), rates.initial_pool(15)
    nothing = np.zeros((5, 15), np.int64)
    for bins in ([4, 10], [12, 13]):
        for _ in range(40):
            truth = rng.choice(bins, 32)
            before = np.repeat(rates.fresh_belief(pool), 32, axis=1)
            successes = rng.binomial(32, P[truth])
            filtered = rates.condition(before, rates.likelihood(GRID, successes, np.full(32, 32)))
            pool = rates.learn(pool, nothing, rates.pooled_sum(filtered), 32, 0.7)
        fresh = rates.fresh_belief(pool)[:, 0]
        if bins[0] == 4:
            assert fresh[[3, 4, 5]].sum() == pytest.approx(0.5, abs=0.1)
            assert fresh[[9, 10, 11]].sum() == pytest.approx(0.5, abs=0.1)
        else:
            assert fresh[11:].sum() > 0.9
    after = rates.learn(pool, nothing, nothing[0], 0, 0.7)  # nobody is seen for the first time
    np.testing.assert_array_equal(rates.fresh_belief(after), rates.fresh_belief(pool))
