import inspect

import numpy as np
import pytest

from actors.health import Deadlines, Health, Quarantine, State
from dps_ray.weights import START, WeightsId

DEADLINES = Deadlines(start=60, update=20, work=100, idle=30, probe=5)
OLD, NEW = WeightsId(1, 1), WeightsId(1, 2)


def engine(state=State.FRESH):
    """An engine that came to this state in the shortest way, all at time 0."""
    health = Health("rollout engine 2", DEADLINES, wanted=OLD, now=0)
    if state is State.DEAD:
        health.died(0)
        return health
    if state is State.STARTING:
        return health
    health.started(START if state in (State.STALE, State.UPDATING) else OLD, 0)
    if state is State.UPDATING:
        health.updating(0)
    if state is State.BUSY:
        health.assigned(0)
    if state is State.SUSPECT:
        health.check(30)
    assert health.state is state
    return health


# What leads where; all that is not listed is refused. `wants` and `died` are possible in any state.
REPORTS = {
    "started": lambda health: health.started(OLD, 50),
    "updating": lambda health: health.updating(50),
    "spoiled": lambda health: health.spoiled(50),
    "refreshed": lambda health: health.refreshed(OLD, 50),
    "assigned": lambda health: health.assigned(50),
    "progressed": lambda health: health.progressed(50),
    "finished": lambda health: health.finished(50),
    "answered": lambda health: health.answered(50),
    "restarted": lambda health: health.restarted(50),
}
LEGAL = {
    (State.STARTING, "started"): State.FRESH,
    (State.STALE, "updating"): State.UPDATING,
    (State.FRESH, "updating"): State.UPDATING,
    (State.UPDATING, "spoiled"): State.STALE,
    (State.UPDATING, "refreshed"): State.FRESH,
    (State.FRESH, "assigned"): State.BUSY,
    (State.BUSY, "progressed"): State.BUSY,
    (State.BUSY, "finished"): State.FRESH,
    (State.SUSPECT, "answered"): State.FRESH,
    (State.DEAD, "restarted"): State.STARTING,
}


def test_every_report_is_in_the_table():
    methods = {name for name, _ in inspect.getmembers(Health, inspect.isfunction) if name[0] != "_"}
    assert methods == {*REPORTS, "wants", "died", "check"}


@pytest.mark.parametrize("report", REPORTS)
@pytest.mark.parametrize("state", State)
def test_a_report_leads_where_the_table_says_or_is_refused(state, report):
    health = engine(state)
    if (state, report) in LEGAL:
        REPORTS[report](health)
        assert health.state is LEGAL[state, report]
    else:
        with pytest.raises(AssertionError, match=f"rollout engine 2 is {state.value} and cannot"):
            REPORTS[report](health)
        assert health.state is state


def test_who_does_part_of_its_work_has_as_long_again_for_the_rest():
    health = engine(State.BUSY)
    assert health.deadline == 100
    health.progressed(90)
    assert health.deadline == 190


@pytest.mark.parametrize("state", State)
def test_any_actor_may_die_and_what_it_had_is_gone(state):
    health = engine(state)
    health.died(50)
    assert health.state is State.DEAD
    assert health.weights is None


# --- weights --------------------------------------------------------------------------------------


def test_an_engine_that_starts_with_other_weights_than_wanted_serves_nothing():
    health = engine(State.STARTING)
    health.started("the start policy", 10)
    assert health.state is State.STALE


def test_a_restarted_engine_serves_nothing_before_its_weights_are_fresh():
    health = engine(State.BUSY)
    health.wants(NEW, 1)
    health.died(2)
    health.restarted(3)
    health.started(OLD, 4)
    assert health.state is State.STALE
    with pytest.raises(
        AssertionError, match="is stale and cannot be given work: only what is fresh can"
    ):
        health.assigned(5)
    health.updating(6)
    health.refreshed(NEW, 7)
    health.assigned(8)
    assert health.state is State.BUSY


def test_new_weights_make_a_fresh_engine_stale():
    health = engine(State.FRESH)
    health.wants(NEW, 1)
    assert health.state is State.STALE


def test_a_busy_engine_is_stale_when_it_finishes_after_new_weights():
    health = engine(State.BUSY)
    health.wants(NEW, 1)
    assert health.state is State.BUSY
    health.finished(2)
    assert health.state is State.STALE


def test_an_update_that_was_overtaken_leaves_it_stale():
    health = engine(State.UPDATING)
    health.wants(NEW, 1)
    health.refreshed(OLD, 2)
    assert health.state is State.STALE


def test_an_engine_silent_in_an_update_has_no_weights_that_are_known():
    health = engine(State.FRESH)
    health.updating(0)
    assert health.check(20)
    health.answered(21)
    assert health.state is State.STALE


# --- deadlines ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "seconds", "then"),
    [
        (State.STARTING, 60, State.DEAD),
        (State.UPDATING, 20, State.SUSPECT),
        (State.FRESH, 30, State.SUSPECT),
        (State.BUSY, 100, State.SUSPECT),
    ],
)
def test_silence_is_borne_up_to_the_deadline(state, seconds, then):
    health = engine(state)
    assert health.deadline == seconds
    assert not health.check(seconds - 0.001)
    assert health.state is state
    assert health.check(seconds)
    assert health.state is then


def test_a_suspect_that_does_not_answer_its_probe_is_dead():
    health = engine(State.SUSPECT)  # since 30
    assert not health.check(34.9)
    assert health.check(35)
    assert health.state is State.DEAD


@pytest.mark.parametrize("state", [State.STALE, State.DEAD])
def test_waiting_for_the_holder_has_no_deadline(state):
    health = engine(state)
    assert health.deadline is None
    assert not health.check(1e9)


# --- quarantine -----------------------------------------------------------------------------------


def test_a_prompt_is_set_aside_at_the_limit():
    quarantine = Quarantine(limit=3)
    assert [quarantine.failed(7) for _ in range(3)] == [False, False, True]
    assert 7 in quarantine
    assert 8 not in quarantine
    assert quarantine.count == 1
    np.testing.assert_array_equal(quarantine.ids, np.array([7]))


def test_a_success_forgets_the_failures_of_a_prompt_that_shared_a_bad_batch():
    quarantine = Quarantine(limit=2)
    for prompt in (7, 8):
        quarantine.failed(prompt)
    quarantine.succeeded([8, 9])
    assert quarantine.failed(7)
    assert not quarantine.failed(8)
    assert quarantine.count == 1


def test_a_late_success_does_not_bring_a_prompt_back():
    quarantine = Quarantine(limit=1)
    quarantine.failed(7)
    quarantine.succeeded([7])
    assert 7 in quarantine


def test_a_resumed_quarantine_goes_on_counting():
    quarantine = Quarantine(limit=2)
    quarantine.failed(7)
    resumed = Quarantine(limit=2, failures=quarantine.failures)
    assert resumed.failed(7)
    assert 7 not in quarantine


def test_a_limit_below_one_is_refused():
    with pytest.raises(ValueError, match="after 1 failure or more, not after 0"):
        Quarantine(limit=0)
