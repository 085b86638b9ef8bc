"""A NaN or infinite loss leaves no trace: no optimizer step, and the next one as if it had not been."""

import numpy as np
import pytest

from actors.learner import Learner
from cluster.placement import Placement, plan
from dps_ray.durable import Storage
from dps_ray.errors import NonFiniteError
from dps_ray.failpoints import VARIABLE, fail_at
from tests.faults.learner_alone import batch, config

pytestmark = pytest.mark.slow


def started(folder, model, *, zero_stage, ranks, on_nonfinite="skip"):
    more = [f"recovery.on_nonfinite={on_nonfinite}"]
    settings = config(folder, zero_stage, ranks, *more)
    learner = Learner(settings, str(model), "gloo", 1, Placement(plan(settings)).learner)
    learner.start(Storage.at(folder), None)
    return learner


FIXED = batch(seed=99, n=4)


@pytest.fixture(scope="module")
def failpoints(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(tmp_path_factory.mktemp("failpoints")))
        yield


@pytest.fixture(scope="module")
def unaware(local_ray, failpoints, tmp_path_factory, tiny_policy):
    """A learner of one rank that stops, and its log-probabilities after a step in which all went well."""
    learner = started(
        tmp_path_factory.mktemp("run"), tiny_policy, zero_stage=1, ranks=1, on_nonfinite="stop"
    )
    learner.train(batch(seed=2, n=8), 2).result()
    yield learner, learner.logprobs(FIXED)
    learner.kill()


def test_stop_names_step_and_minibatch_and_leaves_the_weights(unaware):
    learner, logprobs = unaware
    fail_at("learner.loss", "nan", step=3)
    with pytest.raises(NonFiniteError, match=r"step 3, minibatch 1 of 2.*on_nonfinite=skip"):
        learner.train(batch(seed=3, n=8), 3).result()
    assert learner.version == 2
    assert learner.logprobs(FIXED) == logprobs


@pytest.mark.parametrize("field", ["advantages", "logprobs"])
def test_trajectories_that_are_not_finite_are_refused(unaware, field):
    learner, logprobs = unaware
    good = batch(seed=3, n=8)
    bad = getattr(good, field).copy()
    bad[1] = np.inf
    with pytest.raises(NonFiniteError, match=r"step 3: 1 of the batch's \d+ .* infinite"):
        learner.train(good._replace(**{field: bad}), 3).result()
    assert learner.logprobs(FIXED) == logprobs


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_skip_leaves_the_minibatch_out_as_if_it_had_not_been(
    unaware, tmp_path, tiny_policy, zero_stage
):
    learner = started(tmp_path, tiny_policy, zero_stage=zero_stage, ranks=2)
    start = learner.logprobs(FIXED)
    # Losses that are finite, in several micro-batches a rank, with gradients of which the norm is not.
    bad = batch(seed=1, n=12)
    metrics = learner.train(bad._replace(advantages=bad.advantages * 3e38), 1).result().metrics
    assert metrics == {"actor/nonfinite_minibatches": 2.0, "actor/lr": pytest.approx(1e-4)}
    assert learner.logprobs(FIXED) == start

    metrics = learner.train(batch(seed=2, n=8), 2).result().metrics
    assert learner.logprobs(FIXED) == pytest.approx(unaware[1], abs=1e-5)
    assert metrics["actor/nonfinite_minibatches"] == 0.0

    fail_at("learner.loss", "nan", step=3, rank=1)  # in the first minibatch, on one rank
    metrics = learner.train(batch(seed=3, n=12), 3).result().metrics
    assert metrics["actor/nonfinite_minibatches"] == 1.0
    assert {"actor/grad_norm", "actor/pg_loss", "rollout/logprob_diff_mean"} <= set(metrics)
    assert np.isfinite(list(metrics.values())).all()
    assert np.isfinite(learner.logprobs(FIXED)).all()
    learner.kill()
