"""The objective against values worked out by hand, and against verl's published formulas written out."""

import math

import numpy as np
import pytest
import torch

from dps_ray.config import ObjectiveSettings
from dps_ray.objective.advantages import carries_gradient, group_advantages, size_correction
from dps_ray.objective.aggregation import token_weights
from dps_ray.objective.grpo import grpo_loss, kl_k3, to_tensors, token_entropy, token_logprobs
from dps_ray.objective.policy_losses import importance_weights, policy_loss
from dps_ray.objective.trajectories import concatenate, micro_batches, pad, unpad


def test_advantages_are_centred_and_divided_by_the_sample_deviation():
    scores = np.array([1.0, 0.0, 0.0, 0.0])
    # mean 1/4, sample deviation sqrt((9/16 + 3/16) / 3) = 1/2
    np.testing.assert_allclose(group_advantages(scores), [1.5, -0.5, -0.5, -0.5], rtol=1e-5)


def test_advantages_without_the_deviation_are_dr_grpos():
    scores = np.array([[1.0, 0.0, 0.0, 1.0], [0.1, 0.1, 0.1, 0.5]])
    expected = [[0.5, -0.5, -0.5, 0.5], [-0.1, -0.1, -0.1, 0.3]]
    np.testing.assert_allclose(group_advantages(scores, norm_by_std=False), expected)


@pytest.mark.parametrize("norm_by_std", [True, False])
@pytest.mark.parametrize("reward", [0.0, 0.1, 1.0])
def test_a_group_without_variance_has_no_advantage_and_carries_no_gradient(reward, norm_by_std):
    scores = np.full(8, reward)
    np.testing.assert_allclose(group_advantages(scores, norm_by_std=norm_by_std), 0.0, atol=1e-9)
    assert not carries_gradient(scores)
    assert carries_gradient(np.array([reward, reward + 0.5]))


@pytest.mark.parametrize("size", [2, 3, 4, 7, 8, 64])
@pytest.mark.parametrize("full", [2, 8, 64])
def test_responses_of_groups_of_all_sizes_have_the_same_mean_square_advantage(size, full):
    for right in range(1, size):
        scores = (np.arange(size) < right).astype(float)
        found = group_advantages(scores, full=full, eps=0.0)
        assert np.square(found).mean() == pytest.approx((full - 1) / full)


@pytest.mark.parametrize("size", [2, 4, 8, 64])
def test_a_full_group_and_the_centred_reward_have_no_correction(size):
    scores = np.random.default_rng(size).random((3, size))
    assert (group_advantages(scores, full=size) == group_advantages(scores)).all()
    plain = group_advantages(scores, norm_by_std=False)
    assert (group_advantages(scores, norm_by_std=False, full=2 * size) == plain).all()
    assert size_correction(size, size) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped", "dual"),
    [
        (1.0, 2.0, -2.0, False, False),  # on policy
        (1.1, 1.0, -1.1, False, False),  # within the clip
        (1.5, 1.0, -1.28, True, False),  # upper clip
        (0.5, 1.0, -0.5, False, False),  # pessimistic: the lower clip does not help a good token
        (0.5, -1.0, 0.8, True, False),  # lower clip
        (1.5, -1.0, 1.5, False, False),  # pessimistic: the upper clip does not help a bad token
        (30.0, -1.0, 10.0, False, True),  # dual clip
        (30.0, 1.0, -1.28, True, False),  # and none for a positive advantage
    ],
)
def test_policy_loss_by_hand(ratio, advantage, loss, clipped, dual):
    old = torch.full((1, 1), -1.0)
    result = policy_loss(old + math.log(ratio), old, torch.full((1, 1), advantage))
    assert result.loss.item() == pytest.approx(loss, rel=1e-5)
    assert result.clipped.item() is clipped
    assert result.dual_clipped.item() is dual


def test_policy_loss_equals_verls_formula_on_random_tokens():
    generator = torch.Generator().manual_seed(0)
    old = -torch.rand(64, 33, generator=generator) * 3
    new = old + torch.randn(64, 33, generator=generator)
    advantages = torch.randn(64, 1, generator=generator)
    ratio = torch.exp(torch.clamp(new - old, -20.0, 20.0))
    losses1 = -advantages * ratio
    losses2 = -advantages * torch.clamp(ratio, 1 - 0.2, 1 + 0.28)
    clip1 = torch.maximum(losses1, losses2)
    clip2 = torch.min(-advantages * 10.0, clip1)
    expected = torch.where(advantages < 0, clip2, clip1)
    torch.testing.assert_close(policy_loss(new, old, advantages).loss, expected)


def test_kl_k3_is_zero_on_equal_policies_and_positive_elsewhere():
    logprobs = torch.tensor([-1.0, -2.0, -0.5])
    assert kl_k3(logprobs, logprobs).abs().max() == 0
    # reference half as likely: 1/2 - 1 - log(1/2)
    assert kl_k3(logprobs, logprobs - math.log(2))[0].item() == pytest.approx(
        -0.5 + math.log(2), rel=1e-5
    )
    assert (kl_k3(torch.zeros(100), torch.randn(100)) >= 0).all()


def test_kl_k3_is_unbiased_for_the_kl_between_two_distributions():
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.3, 0.5])
    exact = (p * (p / q).log()).sum()
    estimate = (p * kl_k3(p.log(), q.log())).sum()
    torch.testing.assert_close(estimate, exact)


def test_logprobs_and_entropy_are_those_of_the_tempered_distribution():
    logits = torch.tensor([[[2.0, 0.0, -1.0]]])
    probabilities = (logits / 0.5).softmax(-1)
    torch.testing.assert_close(
        token_logprobs(logits, torch.tensor([[1]]), temperature=0.5), probabilities[..., 1].log()
    )
    torch.testing.assert_close(
        token_entropy(logits, temperature=0.5), -(probabilities * probabilities.log()).sum(-1)
    )


def test_token_mean_weighs_tokens_and_sequence_mean_weighs_responses_the_same():
    mask = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]])
    by_token = token_weights(mask, "token-mean", minibatch_tokens=5, minibatch_sequences=2)
    by_sequence = token_weights(mask, "sequence-mean", minibatch_tokens=5, minibatch_sequences=2)
    torch.testing.assert_close(by_token.sum(-1), torch.tensor([0.8, 0.2]))
    torch.testing.assert_close(by_sequence.sum(-1), torch.tensor([0.5, 0.5]))


class _TinyPolicy(torch.nn.Module):
    """A causal model small enough to differentiate in double precision."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(16, 8)
        self.recurrence = torch.nn.GRU(8, 8, batch_first=True)
        self.head = torch.nn.Linear(8, 16)

    def forward(self, tokens):
        return self.head(self.recurrence(self.embedding(tokens))[0])


def _random_trajectories(n=40):
    rng = np.random.default_rng(0)
    return concatenate(
        [
            (
                rng.integers(0, 16, rng.integers(1, 9)).astype(np.int32),
                rng.integers(0, 16, size).astype(np.int32),
                -rng.random(size).astype(np.float32) * 3,
                float(rng.normal()),
            )
            for size in rng.integers(1, 30, n)
        ]
    )


@pytest.mark.parametrize(
    ("name", "aggregation", "kl_coef"),
    [
        ("grpo", "token-mean", 0.0),
        ("grpo", "token-mean", 0.1),
        ("grpo", "sequence-mean", 0.0),
        ("grpo", "sequence-mean", 0.1),
        ("gspo", "sequence-mean", 0.0),
        ("rloo", "sequence-sum", 0.0),
    ],
)
def test_the_gradient_does_not_depend_on_micro_batches_or_ranks(name, aggregation, kl_coef):
    trajectories = _random_trajectories()
    settings = ObjectiveSettings(
        name=name, aggregation=aggregation, kl_coef=kl_coef, entropy_coef=0.01
    )

    def gradient(max_tokens: int, ranks: int) -> torch.Tensor:
        policy, reference = _TinyPolicy().double(), _TinyPolicy().double()
        for p in reference.parameters():
            p.data.mul_(1.1)
        for rank in micro_batches(trajectories.lengths, max_tokens, ranks):
            for rows in rank:
                batch = to_tensors(pad(trajectories, rows), torch.device("cpu"))
                loss, _ = grpo_loss(
                    policy(batch.tokens),
                    reference(batch.tokens) if kl_coef else None,
                    batch,
                    settings=settings,
                    temperature=1.0,
                    minibatch_tokens=int(trajectories.response_lengths.sum()),
                    minibatch_sequences=len(trajectories.advantages),
                    response_limit=10,
                )
                loss.backward()
        return torch.cat([p.grad.flatten() for p in policy.parameters()])

    whole = gradient(max_tokens=10_000, ranks=1)
    assert whole.abs().max() > 1e-4
    # `token_logprobs` computes in float32, hence the tolerance.
    for max_tokens, ranks in ((40, 1), (100, 2), (300, 3)):
        torch.testing.assert_close(gradient(max_tokens, ranks), whole, atol=2e-6, rtol=1e-4)


def test_importance_weights_are_the_ratio_to_the_engine_truncated_from_above():
    sampled = torch.full((1, 3), -1.0)
    proximal = sampled + torch.tensor([[0.5, 1.5, 4.0]]).log()
    torch.testing.assert_close(
        importance_weights(proximal, sampled, cap=2.0), torch.tensor([[0.5, 1.5, 2.0]])
    )


def _loss_of_old_samples(settings, first):
    """Loss and gradient on trajectories that another policy sampled, with `proximal` recorded before."""
    trajectories = _random_trajectories()
    rows = np.arange(len(trajectories.advantages))
    policy = _TinyPolicy()
    batch = to_tensors(pad(trajectories, rows), torch.device("cpu"))
    proximal = np.zeros_like(trajectories.logprobs)
    if not first:
        found = torch.zeros_like(batch.logprobs)
        found[:, 1:] = token_logprobs(policy(batch.tokens)[:, :-1], batch.tokens[:, 1:]).detach()
        unpad(found.numpy(), trajectories, rows, proximal)
        batch = to_tensors(pad(trajectories._replace(proximal=proximal), rows), torch.device("cpu"))
    loss, metrics = grpo_loss(
        policy(batch.tokens),
        None,
        batch,
        settings=settings,
        temperature=1.0,
        minibatch_tokens=int(trajectories.response_lengths.sum()),
        minibatch_sequences=len(rows),
        first=first,
    )
    loss.backward()
    return loss, policy.head.weight.grad, metrics, batch.response[:, 1:] > 0


def test_before_the_first_update_the_proximal_policy_need_not_be_recorded():
    settings = ObjectiveSettings()
    one, two = _loss_of_old_samples(settings, True), _loss_of_old_samples(settings, False)
    torch.testing.assert_close(one[0], two[0])
    torch.testing.assert_close(one[1], two[1])


def test_an_uncapped_correction_makes_the_gradient_that_of_the_plain_ratio_to_the_sampler():
    # While nothing is clipped: d(rho * pi/proximal) = d(pi/sampled).
    wide = {"clip_low": 0.999, "clip_high": 1e6, "dual_clip": 1e9}
    corrected = _loss_of_old_samples(ObjectiveSettings(importance_cap=1e6, **wide), True)
    plain = _loss_of_old_samples(ObjectiveSettings(importance_cap=None, **wide), True)
    kept = (plain[2]["actor/pg_clipfrac"] == 0) & plain[3]
    assert kept.any()
    torch.testing.assert_close(
        corrected[2]["actor/pg_loss"][kept], plain[2]["actor/pg_loss"][kept], rtol=1e-4, atol=1e-5
    )


def test_the_cap_bounds_what_a_token_counts_for_and_is_counted():
    _, _, metrics, response = _loss_of_old_samples(ObjectiveSettings(importance_cap=1.5), True)
    weights = metrics["rollout/importance_max"][response]
    assert weights.max() == 1.5
    capped = metrics["rollout/importance_clipfrac"][response]
    assert capped.any()
    assert not capped.all()
    torch.testing.assert_close(capped, weights >= 1.5)
