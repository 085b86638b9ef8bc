"""The loop's account of a learner that is lost again and again."""

from types import SimpleNamespace

import numpy as np
import pytest

from actors.learner_rank import Trained
from actors.managed_actor import RestartTracker
from dps_ray.errors import EngineError
from pipelines.monitoring.step_clock import StepClock
from pipelines.training.phases import Learning, Phases


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
