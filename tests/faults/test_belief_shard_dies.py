"""A belief shard is killed before, while or after it applies a step, or hangs: the beliefs are those of a
run in which nothing happened, and every observation is in them once."""

import numpy as np
import pytest
import ray

from actors.belief_shard import BeliefShard, BeliefVersion, parts
from actors.managed_actor import RestartTracker
from dps_ray import BeliefStore
from dps_ray.durable import ObservationLog, Storage
from dps_ray.errors import EngineError, StaleError
from dps_ray.selection.pooled import PooledStore
from dps_ray.selection.population import Population
from tests.faults.beliefs_run import (
    CLUSTERS,
    IDS,
    BeliefsRun,
    assert_equal,
    beliefs_in,
    config_of,
    seen,
    undisturbed,
)

pytestmark = pytest.mark.slow

STEPS, SAVED = 12, 5  # a checkpoint after step SAVED


@pytest.mark.parametrize(
    ("point", "step"),
    [
        ("shard.apply.before", 3),  # before the first checkpoint: the log alone leads there
        ("shard.apply.after", 3),  # applied, and the answer lost
        ("shard.apply.before", SAVED + 1),  # right after a checkpoint
        ("shard.apply.after", STEPS - 1),
        ("shard.save", SAVED),
    ],
)
def test_a_shard_that_is_killed_changes_nothing(local_ray, failpoints, tmp_path, point, step):
    armed = failpoints(point, step=step, shard=1)
    run = BeliefsRun(tmp_path / "run")
    batches = run.steps(*range(1, SAVED + 1))
    run.save(SAVED)
    batches += run.steps(*range(SAVED + 1, STEPS + 1))
    assert_equal((batches, run.beliefs(STEPS)), undisturbed(*range(1, STEPS + 1)))
    assert armed.went_off
    assert run.recoveries.metrics() == {
        "recovery/restarts": 1.0,
        "recovery/restarts/belief_shard": 1.0,
    }
    log = ObservationLog(run.storage, run.epoch)
    assert log.steps() == list(range(1, STEPS + 1))


def test_a_shard_killed_between_calls_comes_back_too(local_ray, tmp_path):
    run = BeliefsRun(tmp_path / "run")
    batches = run.steps(1, 2, 3)
    for member in run.coordinator.members:
        ray.kill(member.actor)
    batches += run.steps(4, 5)
    assert_equal((batches, run.beliefs(5)), undisturbed(1, 2, 3, 4, 5))


def test_a_shard_killed_as_it_saves_gives_the_state_it_had_when_the_next_steps_came_first(
    local_ray, failpoints, tmp_path
):
    """As one step ahead: its successor has taken them in before it is asked for the file again."""
    armed = failpoints("shard.save", step=2, shard=1)
    run = BeliefsRun(tmp_path / "run")
    batches = run.steps(1, 2)
    later = []
    manifest = run.save(2, meanwhile=lambda: later.extend(run.steps(3, 4)))
    assert armed.went_off
    assert_equal((batches, beliefs_in(run.storage, manifest)), undisturbed(1, 2))
    assert_equal((batches + later, run.beliefs(4)), undisturbed(1, 2, 3, 4))


def test_shards_that_die_as_they_start_and_as_they_restore_come_back_too(
    local_ray, failpoints, tmp_path
):
    armed = [
        failpoints("shard.start", shard=1),
        failpoints("shard.start", shard=1),  # its successor
        failpoints("shard.restore", epoch=1, shard=0),
    ]
    run = BeliefsRun(tmp_path / "run")
    batches = run.steps(1, 2)
    base = run.save(2)
    armed.append(failpoints("shard.restore", epoch=2, shard=1))  # told to go to the checkpoint
    again = BeliefsRun(tmp_path / "run", base=base, recoveries=run.recoveries)
    batches += again.steps(3, 4)
    assert_equal((batches, again.beliefs(4)), undisturbed(1, 2, 3, 4))
    assert all(each.went_off for each in armed)
    assert run.recoveries.metrics()["recovery/restarts/belief_shard"] == 4


def test_a_shard_that_hangs_is_replaced_when_its_time_is_up(local_ray, failpoints, tmp_path):
    armed = failpoints("shard.apply.before", "hang", step=2, shard=0)
    told = []
    run = BeliefsRun(
        tmp_path / "run", 2, "timeouts.beliefs=10", recoveries=RestartTracker(told.append)
    )
    batches = run.steps(1, 2, 3)
    assert_equal((batches, run.beliefs(3)), undisturbed(1, 2, 3))
    assert armed.went_off
    assert "belief shard 0 did not answer within 10 s; it is being replaced" in told


def test_a_shard_that_is_lost_again_and_again_ends_the_run_and_is_named(
    local_ray, failpoints, tmp_path
):
    for _ in range(3):
        failpoints("shard.save", step=1, shard=1)
    run = BeliefsRun(tmp_path / "run", recoveries=RestartTracker(limit=2))
    run.steps(1)
    with pytest.raises(EngineError, match="belief shard 1 was lost 3 times in a row"):
        run.save(1)


def alone(folder, storage):
    """The only shard of a pool."""
    (part,) = parts(config_of(folder, 1), Population(IDS), 1)
    return BeliefShard.remote(part, storage, folder / "logs")


def test_a_call_that_is_delivered_twice_has_its_effect_once(local_ray, tmp_path):
    storage = Storage.at(tmp_path)
    shard = alone(tmp_path, storage)
    first = BeliefStore(IDS).select(16).ids
    ObservationLog(storage, 1).append(1, seen(1, first))
    none = [np.empty(0, np.int64)]
    ray.get(shard.propose.remote(BeliefVersion(1, 0, None), 16, none))
    call = (BeliefVersion(1, 1, None), 16, none, seen(1, first))
    once, again = ray.get([shard.propose.remote(*call) for _ in range(2)])
    np.testing.assert_array_equal(once.selections[0].ids, again.selections[0].ids)
    assert ray.get(shard.times_sampled.remote(BeliefVersion(1, 1, None))) == {0: 284, 1: 16}


def test_a_gap_and_a_call_from_before_are_refused(local_ray, tmp_path):
    storage = Storage.at(tmp_path)
    shard = alone(tmp_path, storage)
    none = [np.empty(0, np.int64)]
    ray.get(shard.propose.remote(BeliefVersion(2, 0, None), 16, none))
    for late in (BeliefVersion(2, 3, None), BeliefVersion(1, 0, None)):
        with pytest.raises(StaleError, match="is at step 0 of epoch 2 and cannot serve"):
            ray.get(shard.propose.remote(late, 16, none, seen(3, IDS[:4])))


def test_four_shards_then_eight_then_three_go_on_as_one_would(local_ray, tmp_path):
    expected, _ = undisturbed(*range(1, 13))
    base, done = None, 0
    for shards in (4, 8, 3):
        run = BeliefsRun(tmp_path / "run", shards, base=base)
        batches = run.steps(*range(done + 1, done + 5))
        base = run.save(done + 4)
        beliefs = beliefs_in(run.storage, base)
        assert_equal(
            (batches, beliefs), (expected[done : done + 4], undisturbed(*range(1, done + 5))[1])
        )
        done += 4


@pytest.mark.parametrize("observation", ["states", "counts"])
def test_pooled_beliefs_come_back_from_a_checkpoint_of_other_shards_and_the_log(
    local_ray, tmp_path, observation
):
    pooled = ("method=dps_pooled", f"selector.observation={observation}")
    run = BeliefsRun(tmp_path / "run", 3, *pooled)
    batches = run.steps(1, 2, 3)
    run = BeliefsRun(tmp_path / "run", 2, *pooled, base=run.save(3))
    batches += run.steps(4, 5)
    for member in run.coordinator.members:
        ray.kill(member.actor)
    batches += run.steps(6)
    expected = undisturbed(*range(1, 7), store=PooledStore(IDS, CLUSTERS, observation=observation))
    assert_equal((batches, run.beliefs(6)), expected)
