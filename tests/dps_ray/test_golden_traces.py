"""Traces of the published implementation: what it rolled out, what it saw, what it then believed."""

from pathlib import Path

import numpy as np
import pytest

from dps_ray import BeliefStore
from dps_ray.beliefs import hmm
from dps_ray.beliefs.states import Observation, solve_states

TRACES = sorted((Path(__file__).parents[1] / "data" / "golden").glob("*.npz"))


@pytest.fixture(params=TRACES, ids=lambda path: path.stem)
def trace(request):
    with np.load(request.param) as arrays:
        return dict(arrays)


def seen(trace, step):
    """The states behind the success rates of a step's groups."""
    right = np.rint(trace["success_rate"][step] * int(trace["k"])).astype(int)
    return solve_states(np.arange(int(trace["k"])) < right[:, None])


def test_there_are_traces():
    assert len(TRACES) == 6


def test_the_sweep_believes_what_the_published_code_believes(trace):
    prior = trace["prior_alpha"]
    beliefs = hmm.initial_beliefs(int(trace["n_prompts"]), trace["prior_pi"])
    for step, ids in enumerate(trace["ids"]):
        np.testing.assert_allclose(beliefs.predicted.T, trace["predicted"][step], atol=1e-13)
        beliefs = hmm.step(beliefs, ids, seen(trace, step), prior, float(trace["decay"]))
    alpha = np.moveaxis(beliefs.evidence, -1, 0) + prior
    np.testing.assert_allclose(alpha, trace["alpha_final"], atol=1e-13)


def test_the_store_believes_what_the_published_code_believes(trace):
    ids = np.arange(int(trace["n_prompts"]))
    store = BeliefStore(
        ids, decay=trace["decay"], prior=trace["prior_alpha"], initial=trace["prior_pi"]
    )
    for step, rolled_out in enumerate(trace["ids"]):
        np.testing.assert_allclose(store.predicted(ids), trace["predicted"][step], atol=1e-9)
        store.observe(Observation(rolled_out, seen(trace, step)))
    np.testing.assert_allclose(store.predicted(ids), trace["predicted"][-1], atol=1e-9)
    np.testing.assert_allclose(store.transition_counts(ids), trace["alpha_final"], atol=1e-9)
    np.testing.assert_array_equal(store.times_sampled(ids), trace["times_sampled"])


def test_the_store_ranks_as_the_published_code_ranked(trace):
    """Up to ties, which the published code breaks at random: the chosen have the same scores."""
    ids = np.arange(int(trace["n_prompts"]))
    weight = float(trace["entropy_weight"])
    store = BeliefStore(
        ids, decay=trace["decay"], prior=trace["prior_alpha"], entropy_weight=weight
    )
    for step, chosen in enumerate(trace["ids"]):
        published = trace["predicted"][step]
        scores = published[:, 1] - weight * (published * np.log(published)).sum(axis=1)
        ours = store.select(len(chosen)).score
        np.testing.assert_allclose(ours, -np.sort(-scores[chosen]), atol=1e-9)
        store.observe(Observation(chosen, seen(trace, step)))
