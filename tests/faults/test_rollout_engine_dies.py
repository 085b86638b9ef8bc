"""Rollout engines die idle, generating and while they are given weights; every prompt is answered, once, with
the current weights, as if none had died."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import ray

from actors.calls import Lost, answer
from actors.health import Quarantine, State
from actors.learner import Learner
from actors.managed_actor import RestartTracker
from actors.requests import Request, Sampling
from actors.rollout import Rollouts
from cluster.placement import Placement, plan
from dps_ray.config import settings
from dps_ray.durable import Storage
from dps_ray.errors import StaleError
from dps_ray.failpoints import VARIABLE, fail_at
from dps_ray.groups import Group
from dps_ray.objective.trajectories import concatenate
from dps_ray.weights import WeightsId

pytestmark = pytest.mark.slow

SAMPLING = Sampling(responses=4, temperature=1.0, top_p=1.0, max_tokens=16, seed="faults")
PROMPTS = [
    Request(i, np.array([4 + (7 * i + j) % 10 for j in range(20)], np.int32)) for i in range(8)
]


class Rig:
    """A learner that has made a step, and two engines with its weights."""

    def __init__(self, folder, model: str, *overrides: str) -> None:
        self.config = config = settings.load(
            None,
            [
                f"folder={folder}",
                "model.dtype=float32",
                "data.max_prompt_length=32",
                "rollout.max_response_length=16",
                "learner.lr=1e-2",
                "resources.rollout.engines=2",
                "recovery.restarts=20",  # of the same two engines, in all tests
                "recovery.prompt_failures=2",
                *overrides,
            ],
        )
        self.records: list[dict[str, object]] = []
        self.quarantine = Quarantine(config.recovery.prompt_failures)
        recoveries = RestartTracker(record=self.records.append, limit=config.recovery.restarts)
        place = Placement(plan(config))
        self.rollouts = Rollouts(config, model, "gloo", recoveries, self.quarantine, place.rollout)
        self.learner = Learner(config, model, "gloo", 1, place.learner)
        self.learner.start(Storage.at(folder), None)
        self.rollouts.wait_until_ready()
        self.train(step=1)
        self.undisturbed = self.generate()

    def train(self, step: int) -> None:
        """Move the weights away from those that an engine starts with, and from all before."""
        tokens = np.arange(4, 14, dtype=np.int32)
        logprobs = np.full(10, -3.0, np.float32)
        self.learner.train(
            concatenate([(tokens, tokens, logprobs, a) for a in (1.0, -1.0)]), step
        ).result()
        self.rollouts.publish(self.learner)
        self.all_fresh()

    def all_fresh(self) -> None:
        self.rollouts.wait_until_ready()
        self.rollouts.publish(self.learner)
        assert [e.health.state for e in self.rollouts.engines] == [State.FRESH] * 2

    def generate(self):
        """All prompts; those answered are scored, and so forgiven what engines did to them."""
        groups = self.rollouts.generate(PROMPTS, SAMPLING)
        self.quarantine.succeeded([group.prompt_id for group in groups if group is not None])
        return groups

    def learner_processes(self) -> list[int]:
        calls = [rank.__ray_call__.remote(lambda rank: os.getpid()) for rank in self.learner._ranks]
        return [answer(call) for call in calls]

    def incarnations(self) -> list[int]:
        return [e.managed.incarnation for e in self.rollouts.engines]


@pytest.fixture(scope="module")
def shared_rig(local_ray, tmp_path_factory, tiny_policy) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("engines")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(folder / "failpoints"))
        yield Rig(folder, str(tiny_policy))


@pytest.fixture
def rig(shared_rig) -> Rig:
    shared_rig.all_fresh()
    shared_rig.quarantine.failures.clear()
    return shared_rig


@pytest.fixture
def sharded_rig(local_ray, tmp_path, tiny_policy, monkeypatch) -> Iterator[Rig]:
    """With a learner of two ranks, each of which has a part of every weight."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "failpoints"))
    rig = Rig(tmp_path, str(tiny_policy), "learner.zero_stage=3", "resources.learner.ranks=2")
    yield rig
    rig.rollouts.stop()
    rig.learner.kill()


def assert_equal(groups, expected) -> None:
    """The same prompts in the same order, each once, and the same responses to them."""
    assert [group.prompt_id for group in groups] == [group.prompt_id for group in expected]
    for group, other in zip(groups, expected, strict=True):
        assert group.weights == other.weights
        assert len(group.responses) == len(other.responses)
        for response, same in zip(group.responses, other.responses, strict=True):
            np.testing.assert_array_equal(response.tokens, same.tokens)
            np.testing.assert_allclose(response.logprobs, same.logprobs, atol=1e-5)


class TwoRounds:
    """Asks for two further responses to each prompt. As in a run, engines may be idle meanwhile.

    Args:
        together: ask once all first rounds are done, else for each prompt at once.
        before: called before the first further request.
    """

    def __init__(self, together: bool = False, before: Callable[[], None] = lambda: None) -> None:
        self.first = [request.round(0, 2) for request in PROMPTS]
        self.seen: list[tuple[int, int]] = []
        self._due: list[Request] = []
        self._together, self._before = together, before

    def generated(self, group: Group) -> None:
        self.seen.append((group.prompt_id, group.first))
        if group.first == 0:
            self._due.append(PROMPTS[group.prompt_id].round(2, 2))

    def take(self) -> list[Request]:
        if not self._due or (self._together and len(self._due) < len(PROMPTS)):
            return []
        self._before()
        self._before = lambda: None
        due, self._due = self._due, []
        return due

    def calls(self) -> list[object]:
        return []

    def generate(self, rig: Rig) -> list[Group | None]:
        groups = rig.rollouts.generate(self.first, SAMPLING, self.generated, self)
        rig.quarantine.succeeded([group.prompt_id for group in groups if group is not None])
        return groups

    def assert_each_round_was_seen_once(self) -> None:
        assert sorted(self.seen) == [(r.prompt_id, first) for r in PROMPTS for first in (0, 2)]


def difference_to_learner(groups, learner) -> float:
    """Largest, between the engines' log-probabilities and the learner's."""
    sampled = concatenate(
        [(g.prompt_tokens, r.tokens, r.logprobs, 0.0) for g in groups for r in g.responses]
    )
    return float(np.abs(np.array(learner.logprobs(sampled)) - sampled.logprobs).max())


def test_an_engine_refuses_weights_it_does_not_have_and_updates_of_an_older_epoch(rig):
    engine = rig.rollouts.engines[0].managed.actor
    with pytest.raises(StaleError, match=r"serves e0001\.00000001"):
        answer(next(engine.generate.remote(PROMPTS[:1], SAMPLING, WeightsId(1, 0), 0)))
    with pytest.raises(StaleError, match="has had weights of epoch 1 and takes none of 0"):
        answer(engine.start_weight_update.remote(WeightsId(0, 9)))
    with pytest.raises(StaleError, match="takes none of 0"):
        answer(engine.init_weight_transfer_engine.remote(None, 0))
    assert answer(engine.weights.remote()) == WeightsId(1, 1)


def test_the_prompts_of_an_engine_that_dies_go_to_the_other(rig):
    before = rig.incarnations()
    died = fail_at("engine.generate.after", engine=1)
    assert_equal(rig.generate(), rig.undisturbed)
    assert died.went_off
    assert rig.incarnations() == [before[0], before[1] + 1]
    assert rig.quarantine.failures == {}


def test_when_no_engine_is_left_prompts_wait_for_one_with_the_current_weights(rig):
    before = rig.incarnations()
    for engine in (0, 1):
        fail_at("engine.generate.before", engine=engine)
    groups = rig.generate()
    assert rig.incarnations() == [before[0] + 1, before[1] + 1]
    assert {group.weights for group in groups} == {rig.learner.weights}
    assert difference_to_learner(groups, rig.learner) < 1e-5
    assert_equal(groups, rig.undisturbed)


def test_an_engine_that_dies_idle_costs_no_prompt_an_attempt(rig):
    engine = rig.rollouts.engines[1].managed
    before = engine.incarnation
    ray.kill(engine.actor)
    while not isinstance(answer(engine.actor.weights.remote()), Lost):
        pass
    groups = rig.rollouts.generate(PROMPTS, SAMPLING)
    assert_equal(groups, rig.undisturbed)
    assert engine.incarnation == before + 1
    assert rig.quarantine.failures == {}


def test_an_engine_that_fails_idle_is_replaced_and_so_is_a_successor_that_dies_as_it_starts(rig):
    before = rig.incarnations()
    failed, died = fail_at("engine.weights", "error", engine=1), fail_at("engine.start", engine=1)
    rig.rollouts.publish(rig.learner)
    rig.all_fresh()
    assert failed.went_off
    assert died.went_off
    assert rig.incarnations() == [before[0], before[1] + 2]
    assert_equal(rig.generate(), rig.undisturbed)


def test_the_work_of_a_silent_engine_goes_to_the_other_and_it_is_replaced(rig, monkeypatch):
    silent = rig.rollouts.engines[0]
    before = silent.managed.incarnation
    # No others: the one that is frozen is late however long it is given.
    short = replace(silent.health.deadlines, work=0.1, probe=0.1)
    monkeypatch.setattr(silent.health, "deadlines", short)
    frozen = fail_at("engine.generate.before", "freeze", engine=0)
    assert_equal(rig.generate(), rig.undisturbed)
    assert frozen.went_off
    rig.rollouts.wait_until_ready()
    assert silent.managed.incarnation == before + 1
    assert rig.records[-1]["why"] == "did not answer in time"


@pytest.mark.parametrize("together", [False, True])
def test_a_group_in_rounds_has_the_responses_of_a_group_that_is_asked_for_at_once(rig, together):
    rounds = TwoRounds(together)
    assert_equal(rounds.generate(rig), rig.undisturbed)
    rounds.assert_each_round_was_seen_once()


def test_an_engine_that_dies_with_a_second_round_loses_no_round_and_doubles_none(rig):
    before = rig.incarnations()
    died, rounds = fail_at("engine.prompt", first=2), TwoRounds()
    assert_equal(rounds.generate(rig), rig.undisturbed)
    assert died.went_off
    assert sum(rig.incarnations()) == sum(before) + 1
    rounds.assert_each_round_was_seen_once()
    assert rig.quarantine.failures == {}


def test_engines_that_die_between_the_rounds_lose_none_and_double_none(rig, monkeypatch):
    # The prompts of the one may be dealt to the other before its death is known: two failures each.
    monkeypatch.setattr(rig.quarantine, "limit", 3)

    def kill_both() -> None:
        for engine in rig.rollouts.engines:
            ray.kill(engine.actor)

    before, rounds = rig.incarnations(), TwoRounds(together=True, before=kill_both)
    assert_equal(rounds.generate(rig), rig.undisturbed)
    assert rig.incarnations() == [before[0] + 1, before[1] + 1]
    rounds.assert_each_round_was_seen_once()


def test_a_prompt_whose_second_round_breaks_engines_is_set_aside_and_no_other(rig):
    deaths = [fail_at("engine.prompt", prompt=3, first=2) for _ in range(2)]
    groups = TwoRounds().generate(rig)
    assert all(death.went_off for death in deaths)
    assert groups[3] is None
    rest = [i for i in range(len(PROMPTS)) if i != 3]
    assert_equal([groups[i] for i in rest], [rig.undisturbed[i] for i in rest])
    assert rig.quarantine.failures == {3: 2}
    rig.quarantine.failures.clear()


def test_a_prompt_that_breaks_engines_is_set_aside_and_its_neighbours_are_answered(rig):
    deaths = [fail_at("engine.prompt", prompt=3) for _ in range(2)]
    groups = rig.generate()
    assert all(death.went_off for death in deaths)
    assert groups[3] is None
    rest = [i for i in range(len(PROMPTS)) if i != 3]
    assert_equal([groups[i] for i in rest], [rig.undisturbed[i] for i in rest])
    assert rig.quarantine.failures == {3: 2}
    # No engine is given it again.
    before = rig.incarnations()
    fail_at("engine.prompt", prompt=3)
    assert [i for i, group in enumerate(rig.generate()) if group is None] == [3]
    assert rig.incarnations() == before
    rig.quarantine.failures.clear()


def test_an_engine_that_runs_low_is_given_more_until_all_is_answered(rig, monkeypatch):
    # An engine has 2 prompts at the most, so 4 of the 8 come later.
    monkeypatch.setattr(rig.rollouts, "_slots", 4)
    seen = []
    groups = rig.rollouts.generate(PROMPTS, SAMPLING, seen.append)
    assert_equal(groups, rig.undisturbed)
    assert sorted(group.prompt_id for group in seen) == list(range(8))


def test_an_engine_that_dies_in_an_update_is_replaced_and_the_other_is_given_all_weights_again(rig):
    before = rig.incarnations()
    died = fail_at("engine.update", engine=0, weights=str(WeightsId(1, 2)))
    rig.train(step=2)
    assert died.went_off
    assert rig.incarnations() == [before[0] + 1, before[1]]
    groups = rig.generate()
    assert {group.weights for group in groups} == {WeightsId(1, 2)}
    assert difference_to_learner(groups, rig.learner) < 1e-5


def test_a_transfer_that_fails_without_a_death_is_made_again_and_only_the_second_time_costs_engines(
    rig,
):
    before = rig.incarnations()
    failed = fail_at("engine.update", "error", engine=1)
    rig.train(rig.learner.version + 1)
    assert failed.went_off
    assert rig.incarnations() == before
    assert difference_to_learner(rig.generate(), rig.learner) < 1e-5
    twice = [fail_at("engine.update", "error", engine=1) for _ in range(2)]
    rig.train(rig.learner.version + 1)
    assert all(failed.went_off for failed in twice)
    assert rig.incarnations() == [before[0] + 1, before[1] + 1]
    assert difference_to_learner(rig.generate(), rig.learner) < 1e-5


def lose_an_engine_while_rank_0_blocks(rig: Rig, transfer: str, engine: str) -> None:
    """Publish the weights of another step, while rank 0 hangs at one point for ever and engine 0 dies at another."""
    step, learner = rig.learner.version + 1, rig.learner_processes()
    weights, before, began = WeightsId(1, step), rig.incarnations(), time.monotonic()
    hung, died = fail_at(transfer, "hang", weights=str(weights)), fail_at(engine, engine=0)
    rig.train(step)
    assert hung.went_off
    assert died.went_off
    # Its deadline is at 80% of that timeout.
    assert time.monotonic() - began < 0.3 * rig.config.timeouts.publish
    assert rig.incarnations() == [before[0] + 1, before[1]]
    assert rig.learner_processes() == learner
    groups = rig.generate()
    assert {group.weights for group in groups} == {weights}
    assert difference_to_learner(groups, rig.learner) < 1e-5
    # Nothing is left in the way of the next transfer.
    rig.train(step + 1)
    assert difference_to_learner(rig.generate(), rig.learner) < 1e-5


def lose_an_engine_while_the_broadcast_blocks(rig: Rig) -> None:
    lose_an_engine_while_rank_0_blocks(rig, "transfer.broadcast", "engine.update")


def lose_an_engine_while_the_group_is_opened(rig: Rig) -> None:
    ray.kill(rig.rollouts.engines[0].managed.actor)  # its successor needs another group
    rig.generate()
    rig.rollouts.wait_until_ready()
    lose_an_engine_while_rank_0_blocks(rig, "transfer.open", "engine.join")


def test_a_broadcast_that_blocks_as_in_nccl_costs_the_engine_that_died_and_no_more(rig):
    lose_an_engine_while_the_broadcast_blocks(rig)


def test_a_group_that_blocks_as_it_is_opened_costs_the_engine_that_died_and_no_more(rig):
    lose_an_engine_while_the_group_is_opened(rig)


def test_neither_leaves_other_ranks_waiting_for_weights_that_all_gather(sharded_rig):
    lose_an_engine_while_the_broadcast_blocks(sharded_rig)
    lose_an_engine_while_the_group_is_opened(sharded_rig)
