"""The coordinator over real shards: the same as one store, for any number of them."""

import numpy as np
import pytest
import ray

from actors.belief_shard import BeliefVersion, make_selector
from actors.calls import Lost, answer
from actors.coordinator import Coordinator
from actors.managed_actor import RestartTracker
from cluster.placement import Placement, plan
from dps_ray.beliefs.states import Observation
from dps_ray.config import settings
from dps_ray.durable import ObservationLog, Storage
from dps_ray.errors import CheckpointError
from dps_ray.selection.pooled import number_within
from dps_ray.selection.population import Population
from tests.dps_ray.shards_in_process import SOURCES, WEIGHTS, Shards, assert_equal, found_of
from tests.dps_ray.shards_in_process import population_of as mixed_population
from tests.faults.beliefs_run import BeliefsRun

pytestmark = pytest.mark.slow  # starts Ray, and shards for each test

IDS = np.sort(np.random.default_rng(7).choice(2**62, size=300, replace=False))
STEPS = 12


def coordinator(folder, shards=1, method="dps", *overrides, population=None, restarts=None):
    config = config_of(folder, shards, method, *overrides)
    made = Coordinator(
        config,
        Storage.at(folder),
        population or population_of(config),
        restarts or RestartTracker(),
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


def test_selecting_again_with_some_more_excluded_needs_no_shard(local_ray, tmp_path):
    restarts = RestartTracker()
    two = coordinator(tmp_path, 2, restarts=restarts)
    whole = two.select(32).ids
    for step in (1, 2):
        first = two.select(16).ids
        np.testing.assert_array_equal(two.select(16).ids, first)
        for member in two.members:
            ray.kill(member.actor)
            while not isinstance(answer(member.actor.__ray_ready__.remote()), Lost):
                pass  # a killed actor may answer a few more calls
        second = two.select(16, exclude=first).ids
        third = two.select(16, exclude=first[3:5]).ids
        np.testing.assert_array_equal(third, np.concatenate([np.delete(first, [3, 4]), second[:2]]))
        if step == 1:
            np.testing.assert_array_equal(np.concatenate([first, second]), whole)
        lost_before = restarts.metrics()["recovery/restarts"]
        assert lost_before == 2 * (step - 1)
        # What the proposals do not settle is asked of the shards, which come back for it.
        assert len(two.select(16, exclude=IDS[:250]).ids) == 16
        assert restarts.metrics()["recovery/restarts"] == lost_before + 2
        two.observe(step, seen(step, first))


def test_ids_that_are_not_in_the_pool_may_be_excluded(local_ray, tmp_path):
    two = coordinator(tmp_path, 2)
    first = two.select(16).ids
    two.excluded = np.array([5])  # of a file that is gone
    np.testing.assert_array_equal(two.select(16, exclude=np.array([7])).ids, first)
    two.observe(1, seen(1, first))
    assert len(two.select(16).ids) == 16


def test_the_likely_next_prompts_are_those_of_the_next_batch_where_outcomes_do_not_matter(
    local_ray, tmp_path
):
    two = coordinator(tmp_path, 2, "uniform")
    assert two.likely_next().tolist() == []
    for step in (1, 2, 3):
        batch = two.select(16).ids
        likely = two.likely_next()
        two.observe(step, seen(step, batch))
        np.testing.assert_array_equal(two.select(16).ids, likely)


def test_shards_of_several_sources_that_are_killed_go_on_as_if_nothing_had_happened(
    local_ray, tmp_path
):
    """As one shard in this process, undisturbed."""
    config = config_of(tmp_path, 1, "dps_pooled")
    population = mixed_population(config)
    expected = Shards(config, population, 1)
    three = coordinator(tmp_path, 3, "dps_pooled", population=population)
    for step in range(1, 9):
        batch = three.select(16)
        assert_equal(batch, expected.select(16))
        given = np.bincount(population.sources(population.rows(batch.ids)), minlength=3)
        assert np.all(np.abs(given - 16 * np.array(WEIGHTS)) < 1)
        three.observe(step, found_of(batch.ids, step))
        expected.observe(found_of(batch.ids, step))
        if step in (3, 6):
            for member in three.members[: step // 3]:
                ray.kill(member.actor)
    assert three.times_sampled() == expected.mixtures[0].times_sampled()
    log = ObservationLog(Storage.at(tmp_path), 1).read(8)
    assert log.sources.tolist() == population.sources(population.rows(log.ids)).tolist()


def test_a_checkpoint_of_sources_in_another_order_is_refused_by_the_run(local_ray, tmp_path):
    config = config_of(tmp_path, 1)
    run = BeliefsRun(tmp_path, 2, population=mixed_population(config))
    run.steps(1, 2)
    base = run.save(2)
    other = BeliefsRun(
        tmp_path,
        3,
        base=base,
        population=mixed_population(config, sources=(SOURCES + 1) % 3),
    )
    with pytest.raises(
        CheckpointError, match=r"cannot go on from .*keep the sources in their order"
    ):
        other.steps(3)
