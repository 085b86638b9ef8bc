"""An actor that is gone, for whatever reason, is an answer; what its code raised is an error."""

import pytest
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.calls import Lost, answer, outcomes

pytestmark = pytest.mark.slow  # starts Ray


@ray.remote(num_cpus=0)
class Actor:
    def __init__(self, wrong=None):
        if wrong is not None:
            raise ValueError(wrong)

    def fails(self):
        raise KeyError("mine")

    def works(self):
        return 1


def test_an_actor_that_cannot_start_or_be_placed_is_lost_and_the_reason_is_told(local_ray):
    nowhere = NodeAffinitySchedulingStrategy("0" * 56, soft=False)
    actors = [
        Actor.remote(),
        Actor.remote(wrong="two\nlines"),
        Actor.options(scheduling_strategy=nowhere).remote(),
    ]
    ray.kill(dead := Actor.remote())
    well, failed, unplaced, killed = outcomes([a.works.remote() for a in (*actors, dead)], 60)
    assert well == 1
    assert failed == Lost("failed to start: ValueError: two")
    assert unplaced.why.startswith("was lost: ") or unplaced.why.startswith("died: ")
    assert killed.why.startswith("died: ")


def test_what_an_actor_raises_is_raised(local_ray):
    call = Actor.remote().fails.remote()
    with pytest.raises(KeyError, match="mine"):
        answer(call)
