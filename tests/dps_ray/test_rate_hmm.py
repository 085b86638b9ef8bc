"""What the model of rates is for: it knows better than three states what the next group will be."""

import numpy as np
import pytest

from dps_ray import BeliefStore
from dps_ray.beliefs.states import Observation
from dps_ray.selection.methods.rate_hmm import RateHMM

K = 8


def states_of(successes, k=K):
    return np.select([successes == 0, successes == k], [0, 2], 1)


def observe(selector, ids, successes, k=K):
    selector.observe(Observation(ids, states_of(successes, k), successes, np.full(len(ids), k)))


class Learner:
    """Prompts whose rates rise, each from where it is: logits (N,)."""

    def __init__(self, prompts, rise, seed=0):
        self.rng = np.random.default_rng(seed)
        self.logits = self.rng.normal(-1.5, 3, prompts)
        self.rise = rise

    def answer(self, ids):
        right = self.rng.binomial(K, 1 / (1 + np.exp(-self.logits[ids])))
        self.logits += self.rise
        return right


def log_loss(forecasts, states):
    return -np.log(forecasts[np.arange(len(states)), states]).mean()


@pytest.mark.parametrize("rise", [0.0, 0.1, 0.3])
def test_forecasts_are_better_than_those_of_three_states(rise):
    learner = Learner(400, rise)
    counts, states = RateHMM(np.arange(400)), BeliefStore(np.arange(400))
    forecasts, seen = {"counts": [], "states": []}, []
    for step in range(60):
        ids = learner.rng.permutation(400)[:100]
        right = learner.answer(ids)
        if step >= 10:
            forecasts["states"].append(states.predicted(ids))
            forecasts["counts"].append(counts.predicted(ids))
            seen.append(states_of(right))
        observe(counts, ids, right)
        observe(states, ids, right)
    found = np.concatenate(seen)
    loss = {name: log_loss(np.concatenate(f), found) for name, f in forecasts.items()}
    assert loss["counts"] < 0.5 * loss["states"]
    # And they are calibrated: where the next group is said to be mixed at 20%, one in five is.
    said = np.concatenate(forecasts["counts"])[:, 1]
    for low, high in ((0, 0.3), (0.3, 0.7), (0.7, 1)):
        mine = (said >= low) & (said < high)
        assert said[mine].mean() == pytest.approx(np.mean(found[mine] == 1), abs=0.06)
