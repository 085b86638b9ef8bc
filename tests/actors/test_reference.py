"""The reference policy of the KL is the start policy, however far the trained one has moved."""

import pytest

from actors.learner import Learner
from cluster.placement import Placement, plan
from dps_ray.durable import Storage
from tests.faults.learner_alone import batch, config

pytestmark = pytest.mark.slow


def test_the_kl_is_zero_before_the_first_update_and_grows_after_it(
    local_ray, tmp_path, tiny_policy
):
    settings = config(tmp_path, 2, 2, "objective.kl_coef=0.1", "learner.minibatches=1")
    learner = Learner(settings, str(tiny_policy), "gloo", 1, Placement(plan(settings)).learner)
    try:
        learner.start(Storage.at(tmp_path), None)
        steps = [learner.train(batch(seed), seed).result().metrics for seed in (1, 2, 3)]
    finally:
        learner.kill()
    found = [step["actor/kl_loss"] for step in steps]
    assert found[0] == pytest.approx(0.0, abs=1e-9)
    assert 1e-6 < found[1] < found[2]
