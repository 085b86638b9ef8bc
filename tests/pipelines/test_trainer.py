"""The loop's account of a learner that is lost again and again."""

from types import SimpleNamespace

import numpy as np
import pytest

from actors.learner_rank import Trained
from actors.managed_actor import RestartTracker
from dps_ray.config import settings
from dps_ray.errors import EngineError
from pipelines.training.trainer import Learning, Trainer


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
def trainer(tmp_path):
    unused = ("pool", "test", "storage", "checkpoints", "coordinator", "rollouts", "verifiers")
    unused += ("make_learner", "quarantine", "log", "stopping")
    made = Trainer(
        settings.load(None, [f"folder={tmp_path}"]),
        recoveries=RestartTracker(limit=1),
        view=SimpleNamespace(phase=lambda name: None),
        **dict.fromkeys(unused),
    )
    made.learner = Learner()
    return made


def lost(trainer):
    trainer.recoveries.lost("learner", "the learner", "was lost")


def test_a_learner_that_breaks_at_the_same_step_every_time_is_given_up(trainer):
    for step in (1, 2):
        trainer.learn(trainer.learner.train(step))
    lost(trainer)  # at step 3
    trainer.learn(trainer.learner.train(2))  # again, after the checkpoint of step 1
    with pytest.raises(EngineError, match="the learner was lost 2 times in a row"):
        lost(trainer)


def test_one_that_gets_further_than_before_starts_with_a_clean_slate(trainer):
    for step in (1, 2, 3, 4):
        trainer.learn(trainer.learner.train(step))
        lost(trainer)
