"""The coordinator over real shards: the same as one store, for any number of them."""

import numpy as np
import pytest

from actors.belief_shard import BeliefVersion, make_selector
from actors.coordinator import Coordinator
from actors.managed_actor import RestartTracker
from cluster.placement import Placement, plan
from dps_ray.beliefs.states import Observation
from dps_ray.config import settings
from dps_ray.durable import Storage
from dps_ray.selection.pooled import number_within
from dps_ray.selection.population import Population

pytestmark = pytest.mark.slow  # starts Ray, and shards for each test

IDS = np.sort(np.random.default_rng(7).choice(2**62, size=300, replace=False))
STEPS = 12


def coordinator(folder, shards=1, method="dps", *overrides):
    config = config_of(folder, shards, method, *overrides)
    made = Coordinator(
        config,
        Storage.at(folder),
        population_of(config),
        RestartTracker(),
        Placement(plan(config)).beliefs,
    )
    made.rewind(BeliefVersion(1, 0, None))
    return made


def population_of(config):
    pooled = config.method == "dps_pooled"
    return Population(IDS, number_within(IDS, IDS % 5, config.seed) if pooled else None)


def config_of(folder, shards=1, method="dps", *overrides):
    return settings.load(
        None,
        [
            *overrides,
            f"folder={folder}",
            f"method={method}",
            "loop.batch_size=16",
            f"resources.beliefs.shards={shards}",
        ],
    )


def seen(step: int, ids: np.ndarray) -> Observation:
    """What a policy that slowly gets better would have shown: the same for the same step and ids."""
    ids = np.sort(ids)
    states = np.array([np.random.default_rng([step, i]).integers(3) for i in ids], dtype=np.int8)
    # None, half, all of eight responses.
    return Observation(ids, states, (4 * states).astype(np.int16), np.full(len(ids), 8, np.int16))


@pytest.mark.parametrize(
    ("method", "overrides", "shards"),
    [
        ("dps", (), (1, 2, 7)),
        ("dps_pooled", (), (1, 2, 7)),
        ("dps_pooled", ("selector.observation=states",), (1, 2, 7)),
        ("uniform", (), (3,)),
        ("mopps", (), (2,)),
        ("greso", (), (3,)),
    ],
)
def test_any_number_of_shards_selects_what_one_store_selects(
    local_ray, tmp_path, method, overrides, shards
):
    config = config_of(tmp_path, 1, method, *overrides)
    single = make_selector(config, population_of(config))
    coordinators = [coordinator(tmp_path / str(n), n, method, *overrides) for n in shards]
    for step in range(1, STEPS):
        (expected,) = single.select(16)
        for each in coordinators:
            selection = each.select(16)
            for field, value in zip(selection, expected, strict=True):
                np.testing.assert_array_equal(field, value)
            each.observe(step, seen(step, selection.ids))
        found = seen(step, expected.ids)
        single.observe(found)
    times = dict(
        zip(*np.unique(single.selectors[0].times_sampled(IDS), return_counts=True), strict=True)
    )
    assert all(each.times_sampled() == times for each in coordinators)


@pytest.mark.parametrize(
    "overrides",
    [
        ("selector.observation=counts",),
        ("selector.observation=rewards", "states.rule=variation"),
    ],
)
def test_what_the_whole_step_found_reaches_every_shard(local_ray, tmp_path, overrides):
    config = config_of(tmp_path, 1, "dps", *overrides)
    single, three = (
        make_selector(config, population_of(config)),
        coordinator(tmp_path / "3", 3, "dps", *overrides),
    )
    for step in range(1, STEPS):
        selection = three.select(16)
        for field, value in zip(selection, single.select(16)[0], strict=True):
            np.testing.assert_array_equal(field, value)
        found = seen(step, selection.ids)
        shares = found.successes / found.responses
        found = found._replace(means=shares, deviations=shares * (1 - shares))
        three.observe(step, found)
        single.observe(found)


def test_prompts_that_are_excluded_are_not_selected(local_ray, tmp_path):
    three = coordinator(tmp_path, 3)
    first = three.select(16).ids
    second = three.select(16, exclude=first).ids
    assert not set(first) & set(second)
    np.testing.assert_array_equal(np.concatenate([first, second]), three.select(32).ids)


def test_prompts_that_are_set_aside_are_excluded_from_every_selection(local_ray, tmp_path):
    two = coordinator(tmp_path, 2)
    first = two.select(16).ids
    two.excluded = np.sort(first[:5])
    two.observe(1, seen(1, first))
    assert not set(first[:5]) & set(two.select(16).ids)
    two.excluded = np.sort(first)  # after the shards have proposed
    assert not set(first) & set(two.select(16).ids)


def test_a_random_share_of_the_pool_is_the_same_share_for_any_number_of_shards(local_ray, tmp_path):
    share = "selector.candidates=0.2"
    one, three = (coordinator(tmp_path / str(n), n, "dps", share) for n in (1, 3))
    batches = []
    for step in range(1, 5):
        a, b = one.select(16), three.select(16)
        np.testing.assert_array_equal(a.ids, b.ids)
        batches.append(set(a.ids))
        one.observe(step, seen(step, a.ids))
        three.observe(step, seen(step, b.ids))
    assert batches[0] != batches[1]
