"""The coordinator over real shards: the same as one store, for any number of them."""

import numpy as np
import pytest

from actors.belief_shard import make_selector
from actors.coordinator import Coordinator
from dps_ray import settings
from dps_ray.errors import CheckpointError
from dps_ray.states import Observation

IDS = np.random.default_rng(7).choice(2**62, size=300, replace=False)
STEPS = 12


def config(folder, shards=1, method="dps", *overrides):
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
    counts = np.zeros(len(ids), dtype=np.int16)
    return Observation(ids, states, counts, counts)


@pytest.mark.parametrize(("method", "shards"), [("dps", (1, 2, 7)), ("uniform", (3,))])
def test_any_number_of_shards_selects_what_one_store_selects(local_ray, tmp_path, method, shards):
    single = make_selector(config(tmp_path, method=method), IDS)
    coordinators = [Coordinator(config(tmp_path, n, method), IDS) for n in shards]
    for step in range(STEPS):
        expected = single.select(16)
        for coordinator in coordinators:
            selection = coordinator.select(16)
            for field, value in zip(selection, expected, strict=True):
                np.testing.assert_array_equal(field, value)
            coordinator.observe(seen(step, selection.ids))
        single.observe(*seen(step, expected.ids)[:2])
    times = dict(zip(*np.unique(single.times_sampled(IDS), return_counts=True), strict=True))
    assert all(c.times_sampled() == times for c in coordinators)


def test_prompts_that_are_excluded_are_not_selected(local_ray, tmp_path):
    coordinator = Coordinator(config(tmp_path, 3), IDS)
    first = coordinator.select(16).ids
    second = coordinator.select(16, exclude=first).ids
    assert not set(first) & set(second)
    np.testing.assert_array_equal(np.concatenate([first, second]), coordinator.select(32).ids)


def test_a_saved_coordinator_continues_with_the_same_selections(local_ray, tmp_path):
    one, other = (Coordinator(config(tmp_path, 2), IDS) for _ in range(2))
    for step in range(5):
        one.observe(seen(step, one.select(16).ids))
    one.save(tmp_path / "beliefs")
    other.load(tmp_path / "beliefs")
    for step in range(5, 10):
        a, b = one.select(16), other.select(16)
        np.testing.assert_array_equal(a.ids, b.ids)
        np.testing.assert_array_equal(a.predicted, b.predicted)
        one.observe(seen(step, a.ids))
        other.observe(seen(step, b.ids))


def test_another_number_of_shards_is_refused_with_the_setting_to_change(local_ray, tmp_path):
    Coordinator(config(tmp_path, 2), IDS).save(tmp_path / "beliefs")
    with pytest.raises(CheckpointError, match=r"resources\.beliefs\.shards"):
        Coordinator(config(tmp_path, 3), IDS).load(tmp_path / "beliefs")


def test_a_random_share_of_the_pool_is_the_same_share_for_any_number_of_shards(local_ray, tmp_path):
    one, three = (
        Coordinator(config(tmp_path, n, "dps", "selector.candidates=0.2"), IDS) for n in (1, 3)
    )
    batches = []
    for step in range(4):
        a, b = one.select(16), three.select(16)
        np.testing.assert_array_equal(a.ids, b.ids)
        batches.append(set(a.ids))
        one.observe(seen(step, a.ids))
        three.observe(seen(step, b.ids))
    assert batches[0] != batches[1]
