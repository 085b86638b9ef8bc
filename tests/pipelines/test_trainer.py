"""How many prompts a step draws, and the loop's account of a learner that is lost again and again."""

from types import SimpleNamespace

import numpy as np
import pytest

from actors.learner_rank import Trained
from actors.managed_actor import RestartTracker
from dps_ray.config import LoopSettings
from dps_ray.errors import EngineError
from pipelines.monitoring.step_clock import StepClock
from pipelines.training.phases import Learning, Phases, prompts_to_draw


class Learner:
    """Trains on any step at once."""

    def __init__(self) -> None:
        self.version = 0

    def train(self, step: int) -> Learning:
        def result() -> Trained:
            self.version = step
            return Trained({}, 0.0, 1.0)

        return Learning(np.zeros(1), SimpleNamespace(result=result))


@pytest.fixture
def phases(tmp_path):
    clock = StepClock(tmp_path, lambda phase: None)
    run = SimpleNamespace(learner=Learner(), restarts=RestartTracker(limit=1), clock=clock)
    return Phases(run)


def lost(phases):
    phases._run.restarts.lost("learner", "the learner", "was lost")


def test_a_learner_that_breaks_at_the_same_step_every_time_is_given_up(phases):
    for step in (1, 2):
        phases.learn(phases._run.learner.train(step))
    lost(phases)  # at step 3
    phases.learn(phases._run.learner.train(2))  # again, after the checkpoint of step 1
    with pytest.raises(EngineError, match="the learner was lost 2 times in a row"):
        lost(phases)


def test_one_that_gets_further_than_before_starts_with_a_clean_slate(phases):
    for step in (1, 2, 3, 4):
        phases.learn(phases._run.learner.train(step))
        lost(phases)


def drawn_by_step(partial_by_draw, **loop):
    """How many prompts each selection of a step has, when so many of them turn out partial."""
    settings = LoopSettings(batch_size=16, **loop)
    sizes, partial = [], 0
    for more in (*partial_by_draw, None):
        size = prompts_to_draw(settings, partial, sum(sizes))
        if size == 0:
            return sizes
        assert more is not None, "it draws more often than this test expects"
        sizes.append(size)
        partial += more
    return None


def test_without_a_filter_a_step_draws_one_batch():
    assert drawn_by_step([3]) == [16]


def test_a_refill_has_as_many_prompts_as_groups_are_missing():
    assert drawn_by_step([6, 4, 5, 1], filter_groups=True) == [16, 10, 6, 1]


def test_a_refill_by_batches_has_as_many_prompts_as_the_first_draw():
    assert drawn_by_step([6, 4, 5, 7], filter_groups=True, refill="batch") == [16] * 4


@pytest.mark.parametrize(
    ("refill", "sizes"), [("missing", [16, 13, 13, 6]), ("batch", [16, 16, 16])]
)
def test_a_step_tries_at_most_so_many_batches(refill, sizes):
    capped = {"filter_groups": True, "max_gen_batches": 3, "refill": refill}
    assert drawn_by_step([3, 0, 0, 0][: len(sizes)], **capped) == sizes
