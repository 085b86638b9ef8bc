"""Groups of 2 to 8 responses within one step: every method, for any number of shards, over restarts and the log."""

from itertools import product
from math import comb

import numpy as np
import pytest

from dps_ray.beliefs import rates
from dps_ray.beliefs.states import Observation, states_of
from dps_ray.durable import ObservationLog, Storage
from dps_ray.hashing import hash_ids, hash_key
from dps_ray.selection.clusters import number_within
from dps_ray.selection.methods import MoPPS, RateHMM, VarianceEMA
from dps_ray.selection.pooled import PooledStore
from tests.dps_ray.shards_in_process import (
    BATCH,
    IDS,
    VARIANTS,
    Shards,
    assert_equal,
    config_of,
    population_of,
)

K = 8
# The methods that learn about each prompt from its own groups alone, and can choose from the whole pool.
ALONE = {
    name: overrides
    for name, overrides in VARIANTS.items()
    if not any(
        word in setting
        for word in ("dps_pooled", "greso", "counts", "candidates", "batch")
        for setting in overrides
    )
}
every_method = pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)


def found_of(ids, step):
    """What prompts show at this step in groups of 2 to 8: a third are never solved, a third always."""
    ids = np.sort(ids)
    luck = (hash_ids(ids, hash_key(step)) >> np.uint64(11)).astype(np.int64)
    scored = 2 + (hash_ids(ids, hash_key(step, 2)) >> np.uint64(11)).astype(np.int64) % (K - 1)
    right = np.select([ids % 3 == 0, ids % 3 == 1], [0, scored], luck % (scored + 1))
    share = right / scored
    return Observation(
        ids,
        states_of(right, scored),
        right.astype(np.int16),
        scored.astype(np.int16),
        means=share,
        deviations=np.sqrt(share * (1 - share) * scored / (scored - 1)),
    )


class Sized(Shards):
    found_of = staticmethod(found_of)


@every_method
def test_selections_are_bit_equal_for_any_number_of_shards(overrides):
    config = config_of(overrides)
    one = Sized(config, population_of(config, None), 1).run(20)
    for count in (2, 7):
        for mine, other in zip(
            Sized(config, population_of(config, None), count).run(20), one, strict=True
        ):
            assert_equal(mine, other)


@every_method
def test_a_run_is_resumed_bit_equal_with_another_number_of_shards(overrides, tmp_path):
    config = config_of(overrides)
    undisturbed = Sized(config, population_of(config, None), 1).run(15)
    run = Sized(config, population_of(config, None), 2)
    found = run.run(7)
    found += run.resumed(tmp_path, 7).run(8)
    for mine, other in zip(found, undisturbed, strict=True):
        assert_equal(mine, other)


@every_method
def test_a_replay_of_the_log_gives_the_beliefs_that_were_lost(overrides, tmp_path):
    config = config_of(overrides)
    run = Sized(config, population_of(config, None), 2)
    storage = Storage.at(tmp_path)
    log = ObservationLog(storage, epoch=1)
    for step in range(10):
        found = found_of(run.select(BATCH).ids, step)
        log.append(step + 1, run.population.describe(found))
        run.observe(found)
    again = Sized(config, population_of(config, None), 7)
    for _, found in log.steps_after(0):
        assert len(np.unique(found.responses)) > 1
        again.observe(found)
    assert_equal(again.select(3 * BATCH), run.select(3 * BATCH))


@pytest.mark.parametrize("overrides", ALONE.values(), ids=ALONE)
def test_a_group_counts_by_its_own_size_and_not_by_those_beside_it(overrides):
    config = config_of(overrides)
    few, many = (Sized(config, population_of(config, None), 1) for _ in range(2))
    chosen = np.sort(few.select(BATCH).ids)
    few.observe(found_of(chosen[::2], 0))
    many.observe(found_of(chosen, 0))
    (mine,), (other,) = few.mixtures[0].select(len(IDS)), many.mixtures[0].select(len(IDS))
    for prompt in chosen[::2]:
        a, b = (np.flatnonzero(each.ids == prompt)[0] for each in (mine, other))
        np.testing.assert_array_equal(mine.predicted[a], other.predicted[b])
        assert mine.score[a] == other.score[b]


# --- what methods learn from n responses ---------------------------------------------------------


def told(selector, ids, successes, responses):
    right, scored = np.asarray(successes), np.asarray(responses)
    selector.observe(Observation(np.asarray(ids), states_of(right, scored), right, scored))
    return selector


def test_a_beta_belief_counts_each_response_once():
    selector = told(MoPPS([1, 2, 3], decay=1.0), [1, 2, 3], [0, 1, 8], [2, 3, 8])
    assert selector.parameters([1, 2, 3]).tolist() == [[1, 3], [2, 3], [9, 1]]


def test_a_belief_over_rates_is_the_posterior_of_each_prompts_own_group():
    selector = told(RateHMM([1, 2, 3]), [1, 2, 3], [0, 1, 8], [2, 3, 8])
    grid = rates.rate_grid()
    for column, (right, scored) in enumerate([(0, 2), (1, 3), (8, 8)]):
        likely = grid.rates**right * (1 - grid.rates) ** (scored - right)
        posterior = selector.snapshot()["posterior"][:, column]
        np.testing.assert_allclose(posterior, likely / likely.sum(), atol=1e-11)


def test_two_groups_of_one_step_in_rounds_say_what_one_larger_group_says():
    """A belief does not depend on why a group stopped (the likelihood principle): 2 wrong, then 1 right of 2."""
    likely = rates.likelihood(rates.rate_grid(), [0, 1, 1], [2, 2, 4])
    joined = likely[:, 0] * likely[:, 1]
    np.testing.assert_allclose(joined / joined.sum(), likely[:, 2] / likely[:, 2].sum(), rtol=1e-12)


def test_a_cluster_learns_more_from_a_full_group_than_from_two_responses():
    ids = np.arange(40)
    clusters = number_within(ids, np.zeros(40, dtype=np.int64), 0)

    def chance(responses):
        """P(unsolved) of a prompt never tried, after eight groups that were all wrong."""
        selector = PooledStore(ids, clusters, observation="counts")
        chosen = np.sort(selector.select(8).ids)
        known = clusters.take(chosen)
        none, scored = np.zeros(8, dtype=np.int16), np.full(8, responses, dtype=np.int16)
        selector.observe(
            Observation(chosen, states_of(none, scored), none, scored, known.labels, known.ranks)
        )
        rest = selector.select(8, exclude=chosen)
        return rest.predicted[0, 0]

    assert chance(8) > chance(4) > chance(2)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_a_running_variance_is_on_average_the_same_for_every_group_size(p):
    means = []
    for n in range(2, K + 1):
        ids = np.arange(n + 1)
        selector = told(VarianceEMA(ids, keep=0.0), ids, ids, np.full(n + 1, n))
        chance = [comb(n, s) * p**s * (1 - p) ** (n - s) for s in range(n + 1)]
        means.append(selector.variances(ids) @ chance)
    np.testing.assert_allclose(means, 4 * p * (1 - p) * (1 - 1 / K), rtol=1e-12)


def test_a_running_variance_of_full_groups_is_that_of_the_shares_themselves():
    ids = np.arange(K + 1)
    selector = told(VarianceEMA(ids, keep=0.0), ids, ids, np.full(K + 1, K))
    share = ids / K
    assert np.array_equal(selector.variances(ids), 4 * share * (1 - share))


def test_a_group_has_the_state_of_its_own_responses():
    for right, scored in product(range(9), range(2, 9)):
        if right <= scored:
            state = states_of(np.array([right]), np.array([scored]))[0]
            assert state == (0 if right == 0 else 2 if right == scored else 1)
