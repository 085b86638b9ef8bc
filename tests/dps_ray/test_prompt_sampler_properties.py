"""Whatever the order, splits, duplicates and failures of reports: the same beliefs, and no prompt stays in flight."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dps_ray import PromptSampler

KEYS = [f"problem {number}" for number in range(24)]
RULES = {
    "dps": {"method": "dps"},
    "dps_pooled": {"kinds": [len(key) for key in KEYS], "rest": 0},
    "dps from counts": {"method": "dps", "observation": "counts"},
    "dps from rewards": {"method": "dps", "observation": "rewards", "states": "variation"},
}
REWARDS = st.sampled_from([0.0, 0.1, 0.3, 1.0, np.nan])


def same_beliefs(one, other):
    """Whether two samplers that stand at the same step hold the same, and choose the same."""
    states = [sampler.state_dict() for sampler in (one, other)]
    names = [name for name in states[0] if name.startswith(("selector.", "open."))]
    assert names == [name for name in states[1] if name.startswith(("selector.", "open."))]
    for name in names:
        np.testing.assert_array_equal(states[0][name], states[1][name], err_msg=name)
    assert one.take(len(KEYS)) == other.take(len(KEYS))


@st.composite
def parts_of(draw, groups):
    """The responses of groups, cut into reports: each is a list of (key, rewards), in any order, keys also repeated."""
    pieces = []
    for key, rewards in groups.items():
        shuffled = draw(st.permutations(rewards))
        cuts = sorted(draw(st.lists(st.integers(0, len(shuffled)), max_size=2)))
        ends = [0, *cuts, len(shuffled)]
        pieces += [(key, shuffled[a:b]) for a, b in pairwise(ends)]
    pieces = draw(st.permutations(pieces))
    calls = []
    while pieces:
        size = draw(st.integers(1, len(pieces)))
        calls.append(pieces[:size])
        pieces = pieces[size:]
    return calls


@st.composite
def runs(draw):
    """Steps; each is what every taken prompt was found to be, and how that was reported."""
    steps = []
    for _ in range(draw(st.integers(1, 3))):
        found = draw(st.lists(st.lists(REWARDS, min_size=1, max_size=4), min_size=6, max_size=6))
        steps.append((found, draw(parts_of(dict(enumerate(found))))))
    return steps


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=40)
@given(run=runs())
def test_beliefs_are_those_of_one_ordered_replay(rule, run):
    scattered, ordered = (PromptSampler(KEYS, batch=1000, **RULES[rule]) for _ in range(2))
    for found, calls in run:
        keys = scattered.take(6)
        assert keys == ordered.take(6)
        for call in calls:
            numbers, rewards = zip(*call, strict=True)
            scattered.report([keys[number] for number in numbers], rewards)
        ordered.report(sorted(keys), [found[keys.index(key)] for key in sorted(keys)])
        for sampler in (scattered, ordered):
            assert sampler.in_flight == []
            sampler.tick()
    same_beliefs(scattered, ordered)


class Script:
    """A trainer that does what it is told, beside a plain account of what must be in flight."""

    def __init__(self, batch):
        self.sampler = PromptSampler(KEYS, method="dps", batch=batch)
        self.flying = []

    def take(self, size):
        with np.errstate(all="raise"):
            taken = self.sampler.take(size)
        assert len(set(taken)) == len(taken) == size
        again = [key for key in taken if key in self.flying]
        assert again == self.flying[: len(again)]  # those taken longest ago
        assert taken[size - len(again) :] == again
        self.flying = [key for key in self.flying if key not in again] + taken

    def report(self, places, rewards):
        keys = [KEYS[place] for place in places]
        self.sampler.report(keys, [rewards] * len(keys))
        self.flying = [key for key in self.flying if key not in keys]

    def release(self, places):
        keys = [KEYS[place] for place in places]
        self.sampler.release(keys)
        self.flying = [key for key in self.flying if key not in keys]

    def restart(self):
        state = self.sampler.state_dict()
        self.sampler = PromptSampler(KEYS, method="dps", batch=self.sampler._batch)
        assert self.sampler.load_state_dict(state).freed == len(self.flying)
        self.flying = []

    def tick(self):
        self.sampler.tick()


PLACES = st.lists(st.integers(0, len(KEYS) - 1), max_size=6)
ACTIONS = st.one_of(
    st.tuples(st.just("take"), st.integers(0, 14)),
    st.tuples(st.just("report"), PLACES, st.lists(REWARDS, max_size=3)),
    st.tuples(st.just("release"), PLACES),
    st.tuples(st.just("tick")),
    st.tuples(st.just("restart")),
)


@pytest.mark.filterwarnings("ignore:.*taken again")
@settings(max_examples=150)
@given(batch=st.sampled_from([None, 1, 5]), actions=st.lists(ACTIONS, max_size=25))
def test_in_flight_is_what_was_taken_and_neither_reported_nor_released(batch, actions):
    script = Script(batch)
    for name, *arguments in actions:
        getattr(script, name)(*arguments)
        assert script.sampler.in_flight == script.flying
        assert script.sampler.metrics()["in_flight"] == len(script.flying)
    script.sampler.release()
    assert script.sampler.in_flight == []
    assert sorted(script.sampler.take(len(KEYS))) == sorted(KEYS)
