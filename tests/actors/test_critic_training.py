"""What PPO's learner does with a batch does not depend on how the batch is divided; a critic learns what scores to expect."""

import numpy as np
import pytest

from actors.learner import Learner
from cluster.placement import Placement, plan
from dps_ray.durable import Storage
from dps_ray.failpoints import VARIABLE, fail_at
from tests.faults.learner_alone import batch_with_scores, config

pytestmark = pytest.mark.slow

PPO = (
    "objective.name=ppo",
    "objective.kl_coef=0.01",
    "learner.critic.lr=3e-3",
    "learner.critic.gamma=0.98",
    "learner.critic.lam=0.9",
    "learner.critic.epochs=2",
    "learner.critic.minibatches=3",
)
FIXED = batch_with_scores(seed=99, n=4)
CRITIC = {
    "critic/vf_loss",
    "critic/vf_clipfrac",
    "critic/vpred_mean",
    "critic/vf_explained_var",
    "critic/grad_norm",
    "critic/lr",
    "critic/nonfinite_minibatches",
}


def started(folder, model, *more, zero_stage=1, ranks=1):
    settings = config(folder, zero_stage, ranks, *PPO, *more)
    learner = Learner(settings, str(model), "gloo", 1, Placement(plan(settings)).learner)
    learner.start(Storage.at(folder), None)
    return learner


def three_steps(folder, model, *more, **options):
    """Metrics of three steps, and the log-probabilities after them."""
    learner = started(folder, model, *more, **options)
    try:
        steps = [learner.train(batch_with_scores(s), s).result().metrics for s in (1, 2, 3)]
        return steps, learner.logprobs(FIXED)
    finally:
        learner.kill()


@pytest.fixture(scope="module")
def alone(local_ray, tmp_path_factory, tiny_policy):
    """On one rank, in micro-batches of a few sequences."""
    return three_steps(tmp_path_factory.mktemp("alone"), tiny_policy)


def test_the_first_values_are_0_and_those_after_it_are_learnt(alone):
    steps, _ = alone
    assert steps[0].keys() >= CRITIC
    assert steps[0]["critic/vf_explained_var"] == 0.0
    assert all(step["critic/vpred_mean"] != 0.0 for step in steps)
    assert steps[1]["critic/vf_explained_var"] != 0.0
    assert [step["critic/lr"] for step in steps] == [3e-3] * 3


@pytest.mark.parametrize(
    ("ranks", "zero_stage", "max_tokens"), [(1, 1, 400), (2, 2, 64), (2, 3, 100)]
)
def test_the_result_does_not_depend_on_micro_batches_ranks_and_stages(
    alone, tmp_path, tiny_policy, ranks, zero_stage, max_tokens
):
    budget = f"learner.max_tokens_per_micro_batch={max_tokens}"
    steps, logprobs = three_steps(tmp_path, tiny_policy, budget, ranks=ranks, zero_stage=zero_stage)
    for found, expected in zip(steps, alone[0], strict=True):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert logprobs == pytest.approx(alone[1], abs=1e-4)


def test_the_policy_waits_while_the_critic_warms_up_and_a_batch_that_is_not_finite_leaves_no_trace(
    local_ray, tmp_path, tiny_policy, monkeypatch
):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "failpoints"))
    learner = started(
        tmp_path,
        tiny_policy,
        "learner.critic.warmup_steps=2",
        "learner.critic.lam=1",
        "learner.critic.gamma=1",
        "recovery.on_nonfinite=skip",
        "learner.lora={rank: 4}",
        ranks=2,
        zero_stage=2,
    )
    try:
        before = learner.logprobs(FIXED)
        first, second = (learner.train(FIXED, step).result().metrics for step in (1, 2))
        assert learner.logprobs(FIXED) == before
        assert not any(name.startswith("actor/") for name in first | second)
        assert second["critic/vf_loss"] < first["critic/vf_loss"]

        # In each of the critic's minibatches, on one rank. The policy, with adapters, is trained nevertheless.
        fail_at("learner.critic.loss", "nan", step=3, rank=1)
        third = learner.train(FIXED, 3).result().metrics
        assert third["critic/nonfinite_minibatches"] == 1.0
        assert third["actor/nonfinite_minibatches"] == 0.0
        after = learner.logprobs(FIXED)
        assert np.abs(np.subtract(after, before)).max() > 1e-4
        assert np.isfinite(list(learner.train(FIXED, 4).result().metrics.values())).all()
    finally:
        learner.kill()
