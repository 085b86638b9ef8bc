import numpy as np
import pytest

from dps_ray.beliefs import hmm, settling
from dps_ray.beliefs.priors import PRIORS

TOLERANCE = 1e-9


def test_the_stationary_distribution_is_left_as_it_is_by_its_transitions():
    alpha = 10.0 ** np.random.default_rng(0).uniform(-6, 3, (3, 3, 500))
    limit = settling.stationary(alpha)
    np.testing.assert_allclose(limit.sum(axis=0), 1)
    np.testing.assert_allclose(hmm.predict(alpha, limit), limit, rtol=1e-13)


def test_there_is_none_where_the_chain_falls_apart():
    assert np.isnan(settling.stationary(np.eye(3)[:, :, None])).all()


def test_an_absorbing_state_takes_all():
    alpha = np.array([[1.0, 0, 0], [1, 1, 0], [0, 1, 1]])[:, :, None]
    assert settling.stationary(alpha)[:, 0].tolist() == [0, 0, 1]


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("name", PRIORS)
def test_no_prompt_is_forgotten_before_the_shortest_wait(decay, name):
    prior = PRIORS[name]
    least = settling.least_evidence(prior, decay, TOLERANCE)
    wait = settling.shortest_wait(least, decay)
    beliefs = hmm.initial_beliefs(3, [1 / 3] * 3)
    shared = hmm.initial_beliefs(1, [1 / 3] * 3)
    beliefs = hmm.step(beliefs, np.arange(3), np.arange(3), prior, decay)
    shared = hmm.step(shared, np.array([], int), np.array([], int), prior, decay)
    steps = 0
    while not settling.forgotten(beliefs, shared, least, TOLERANCE).any():
        steps += 1
        beliefs = hmm.step(beliefs, np.array([], int), np.array([], int), prior, decay)
        shared = hmm.step(shared, np.array([], int), np.array([], int), prior, decay)
    assert wait <= steps
    if name == "uniform":
        assert steps <= wait + 3 + 0.05 * wait


def test_a_rare_state_must_be_as_near_as_a_common_one():
    rare = hmm.Beliefs(
        np.zeros((3, 3, 1)), np.array([[1e-10], [0.5], [0.5]]), np.array([[1e-10], [0.5], [0.5]])
    )
    twice = rare._replace(posterior=np.array([[2e-10], [0.5], [0.5]]))
    least = settling.least_evidence(PRIORS["uniform"], 0.5, TOLERANCE)
    assert settling.forgotten(rare, rare, least, TOLERANCE).all()
    assert not settling.forgotten(twice, rare, least, TOLERANCE).any()


def test_what_has_converged_stays_within_the_tolerance_of_its_limit():
    rng = np.random.default_rng(1)
    prior = PRIORS["uniform"]
    evidence = rng.integers(0, 300, (3, 3, 200)).astype(float)
    start = rng.dirichlet([1, 1, 1], 200).T
    beliefs = hmm.Beliefs(evidence, start, start)
    nobody = np.array([], int)
    limit = settling.stationary(evidence + prior[:, :, None])
    arrived = np.zeros(200, bool)
    for _ in range(3000):
        beliefs = hmm.step(beliefs, nobody, nobody, prior, 1.0)
        now = settling.converged(beliefs, prior, TOLERANCE)
        assert (now | ~arrived).all()
        assert (np.abs(beliefs.predicted - limit)[:, now] <= TOLERANCE).all()
        arrived = now
    assert arrived.mean() > 0.9
