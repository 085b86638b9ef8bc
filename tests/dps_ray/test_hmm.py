"""The method against its definition, worked out prompt by prompt in exact fractions."""

from fractions import Fraction

import numpy as np
import pytest

from dps_ray.beliefs import hmm
from dps_ray.beliefs.priors import PRIORS

STATES = range(3)


def follow(prior, initial, decay, history):
    """alpha and mu of one prompt after a history of states, None where it was not rolled out.

    Every (from, to) pair is enumerated, as DESIGN's equations have it.
    """
    alpha0 = [[Fraction(float(prior[i, j])) for j in STATES] for i in STATES]
    decay = Fraction(decay)
    alpha, posterior, predicted = alpha0, list(map(Fraction, initial)), list(map(Fraction, initial))
    for state in history:
        totals = [sum(alpha[i][j] for i in STATES) for j in STATES]
        xi = [[Fraction(0)] * 3 for _ in STATES]
        before, posterior = posterior, predicted
        if state is not None:
            posterior = [Fraction(int(i == state)) for i in STATES]
            joint = {
                (i, j): posterior[i] * before[j] * alpha[i][j] / totals[j]
                for i in STATES
                for j in STATES
            }
            for (i, j), weight in joint.items():
                xi[i][j] = weight / sum(joint.values())
        alpha = [
            [decay * alpha[i][j] + (1 - decay) * alpha0[i][j] + xi[i][j] for j in STATES]
            for i in STATES
        ]
        totals = [sum(alpha[i][j] for i in STATES) for j in STATES]
        predicted = [sum(alpha[i][j] / totals[j] * posterior[j] for j in STATES) for i in STATES]
    return np.array(alpha, dtype=float), np.array(predicted, dtype=float)


HISTORIES = [
    [1],
    [0, 0, 2, 1],
    [2, None, 0, None, None, 1, 1],
    [None, None, 2, 0],
    [None] * 5,
    [1, 1, 2, None, 2, 0, None],
]


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("name", ["uniform", "progress", "stability"])
@pytest.mark.parametrize("initial", [(0.25, 0.25, 0.5), (0.125, 0.75, 0.125)])
def test_a_sweep_equals_the_definition_for_every_history(decay, name, initial):
    prior = PRIORS[name]
    steps = max(map(len, HISTORIES))
    padded = [[None] * (steps - len(history)) + history for history in HISTORIES]
    beliefs = hmm.initial_beliefs(len(HISTORIES), initial)
    for step in range(steps):
        rows = np.array([n for n, history in enumerate(padded) if history[step] is not None], int)
        states = np.array([padded[n][step] for n in rows], dtype=np.int8)
        beliefs = hmm.step(beliefs, rows, states, prior, decay)
    for n, history in enumerate(padded):
        alpha, predicted = follow(prior, initial, decay, history)
        np.testing.assert_allclose(beliefs.evidence[:, :, n] + prior, alpha, rtol=1e-14)
        np.testing.assert_allclose(beliefs.predicted[:, n], predicted, rtol=1e-14)


@pytest.mark.parametrize(("state", "score"), [(1, 0.4), (0, 0.3), (2, 0.3)])
def test_one_sighting_scores_two_fifths_if_partial_and_three_tenths_if_not(state, score):
    beliefs = hmm.initial_beliefs(1, [1 / 3] * 3)
    beliefs = hmm.step(beliefs, np.array([0]), np.array([state]), PRIORS["uniform"], 0.7)
    assert beliefs.predicted[1, 0] == pytest.approx(score, abs=1e-15)


def test_a_jump_the_prior_holds_impossible_is_counted_as_it_was_seen():
    beliefs = hmm.initial_beliefs(1, [1 / 3] * 3)
    for state in (0, 2):
        beliefs = hmm.step(beliefs, np.array([0]), np.array([state]), PRIORS["local"], 0.5)
    assert beliefs.evidence[2, 0, 0] == pytest.approx(1)
    assert beliefs.predicted.sum() == pytest.approx(1)


def test_a_jump_held_impossible_is_the_limit_of_one_held_ever_less_likely():
    unlikely = np.maximum(PRIORS["local"], 1e-11)
    ends = []
    for prior in (PRIORS["local"], unlikely):
        beliefs = hmm.initial_beliefs(1, [0.5, 0.0, 0.5])
        for state in (0, 2, 1, 0, 2):
            beliefs = hmm.step(beliefs, np.array([0]), np.array([state]), prior, 0.9)
        ends.append(beliefs.predicted)
    np.testing.assert_allclose(*ends, atol=1e-9)


def test_the_bits_of_a_belief_do_not_depend_on_which_prompts_share_its_array():
    rng = np.random.default_rng(0)
    many = hmm.Beliefs(rng.random((3, 3, 77)), rng.random((3, 77)), rng.random((3, 77)))
    rows = np.arange(0, 77, 2)
    states = rng.integers(0, 3, len(rows))
    whole = hmm.step(many, rows, states, PRIORS["progress"], 0.7)
    for n in range(77):
        alone = hmm.Beliefs(*(array[..., n : n + 1] for array in many))
        seen = np.flatnonzero(rows == n)
        alone = hmm.step(alone, np.zeros(len(seen), int), states[seen], PRIORS["progress"], 0.7)
        for one, all_ in zip(alone, whole, strict=True):
            np.testing.assert_array_equal(one[..., 0], all_[..., n])
        assert hmm.entropy(alone.predicted)[0] == hmm.entropy(whole.predicted)[n]


def test_entropy_is_log_3_when_nothing_is_known_and_0_when_all_is():
    distributions = np.array([[1 / 3, 1.0, 0.5], [1 / 3, 0.0, 0.5], [1 / 3, 0.0, 0.0]])
    expected = [np.log(3), 0.0, np.log(2)]
    np.testing.assert_allclose(hmm.entropy(distributions), expected, atol=1e-15)
