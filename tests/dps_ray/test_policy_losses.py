"""Losses by hand, and every named objective and its gradient against the published formulas, written afresh from TRL and verl."""

import math

import pytest
import torch

from dps_ray.config import ObjectiveSettings
from dps_ray.objective.aggregation import token_weights
from dps_ray.objective.grpo import PaddedTensors, TokenScores, grpo_loss_of, kl_k2
from dps_ray.objective.policy_losses import sequence_loss, sequence_mean, weighted_loss
from dps_ray.objective.published import PUBLISHED

LIMIT = 40


def test_the_ratio_of_a_response_is_the_geometric_mean_of_its_tokens():
    old = torch.full((1, 3), -1.0)
    new = old + torch.tensor([[math.log(4.0), 0.0, 5.0]])  # the last is no response token
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    wide = {"clip_low": 0.9, "clip_high": 9.0}
    found = sequence_loss(new, old, torch.tensor([[3.0]]), mask, **wide)
    torch.testing.assert_close(found.loss[:, :2], torch.full((1, 2), -3.0 * 2.0))
    assert not found.clipped.any()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.0, 2.0, -2.0, False),
        (1.0003, 1.0, -1.0003, False),
        (1.1, 1.0, -1.0004, True),  # upper clip
        (0.9, -1.0, 0.9997, True),  # lower clip
        (0.9, 1.0, -0.9, False),  # pessimistic
        (1.1, -1.0, 1.1, False),
        (30.0, -1.0, 30.0, False),  # there is no dual clip
    ],
)
def test_a_response_is_clipped_as_one(ratio, advantage, loss, clipped):
    old = torch.full((1, 4), -1.0)
    new = (old + math.log(ratio)).requires_grad_()
    mask = torch.ones(1, 4)
    found = sequence_loss(new, old, torch.full((1, 1), advantage), mask)
    torch.testing.assert_close(found.loss, torch.full((1, 4), loss), rtol=1e-5, atol=0)
    assert found.clipped.tolist() == [[clipped] * 4]
    assert not found.dual_clipped.any()
    found.loss.sum().backward()
    assert (new.grad == 0).all() == clipped


@pytest.mark.parametrize(
    ("ratio", "weight", "clipped"),
    [(1.0, 1.0, False), (0.01, 0.01, False), (4.9, 4.9, False), (30.0, 5.0, True)],
)
@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_a_clipped_weight_bounds_the_gradient_and_drops_no_token(ratio, weight, clipped, advantage):
    old = torch.full((1, 1), -1.5)
    new = (old + math.log(ratio)).requires_grad_()
    found = weighted_loss(new, old, torch.full((1, 1), advantage))
    assert found.loss.item() == pytest.approx(-weight * advantage * new.item(), rel=1e-5)
    assert found.clipped.item() is clipped
    found.loss.sum().backward()
    assert new.grad.item() == pytest.approx(-weight * advantage, rel=1e-5)


def test_a_lower_clip_of_weights_can_be_set():
    old = torch.zeros(1, 1)
    found = weighted_loss(old + math.log(0.1), old, torch.ones(1, 1), clip_low=0.2)
    assert found.loss.item() == pytest.approx(-0.8 * math.log(0.1), rel=1e-5)
    assert found.clipped.item()


def test_a_sum_over_tokens_is_divided_by_the_longest_possible_response():
    mask = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]])
    weights = token_weights(
        mask, "sequence-sum", minibatch_tokens=5, minibatch_sequences=2, response_limit=10
    )
    torch.testing.assert_close(weights, mask / 20)
    with pytest.raises(ValueError, match="needs response_limit"):
        token_weights(mask, "sequence-sum", minibatch_tokens=5, minibatch_sequences=2)


def test_kl_k2_has_the_gradient_of_the_kl_on_samples_of_the_policy():
    logits = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).log()
    logprobs = logits.log_softmax(0)
    p = logprobs.exp()
    (exact,) = torch.autograd.grad((p * (logprobs - reference)).sum(), logits, retain_graph=True)
    (found,) = torch.autograd.grad((p.detach() * kl_k2(logprobs, reference)).sum(), logits)
    torch.testing.assert_close(found, exact)
    assert kl_k2(torch.tensor(-1.0), torch.tensor(-3.0)).item() == 2.0


# The published objectives, each from (log p, log p_old, advantages, mask), all (b, t), to a scalar.


def trl(loss_type, *, level="token", low=0.2, high=0.2):
    """`GRPOTrainer._compute_loss` of TRL without KL, for a batch that is one minibatch."""

    def loss(new, old, advantages, mask):
        log_ratio = new - old
        if level == "sequence":
            log_ratio = ((log_ratio * mask).sum(-1) / mask.sum(-1)).unsqueeze(-1)
            advantages = advantages[:, :1]
        ratio = torch.exp(log_ratio)
        if loss_type == "cispo":
            each = -torch.clamp(ratio, max=high).detach() * advantages * new
        else:
            bounded = torch.clamp(ratio, 1 - low, 1 + high)
            each = -torch.min(ratio * advantages, bounded * advantages)
        if loss_type == "grpo":
            return ((each * mask).sum(-1) / mask.sum(-1)).mean()
        if loss_type == "dr_grpo":
            return (each * mask).sum() / (len(mask) * LIMIT)
        return (each * mask).sum() / mask.sum()

    return loss


def verl_vanilla(new, old, advantages, mask, low=0.2, high=0.28, dual=10.0):
    """`compute_policy_loss_vanilla` of verl with `loss_agg_mode=token-mean`."""
    ratio = torch.exp(torch.clamp(new - old, min=-20.0, max=20.0))
    first = torch.maximum(-advantages * ratio, -advantages * torch.clamp(ratio, 1 - low, 1 + high))
    each = torch.where(advantages < 0, torch.min(-advantages * dual, first), first)
    return (each * mask).sum() / mask.sum()


FORMULAS = {
    "grpo": verl_vanilla,
    "dr_grpo": trl("dr_grpo"),
    "rloo": trl("dr_grpo"),
    "reinforce_plus_plus": trl("dapo"),
    "reinforce_plus_plus_baseline": trl("dapo"),
    "gspo": trl("grpo", level="sequence", low=3e-4, high=4e-4),
    "cispo": trl("cispo", high=5.0),
    "ppo": trl("dapo"),
}


def random_batch(seed=0, spread=0.7, by_token=False):
    """A micro-batch in double precision with responses of several lengths, and the policy's log-probabilities."""
    draw = torch.Generator().manual_seed(seed)
    shape = (16, 30)

    def uniform():
        return torch.rand(shape, generator=draw, dtype=torch.float64)

    begins = torch.randint(1, 8, (16, 1), generator=draw)
    ends = torch.randint(9, 31, (16, 1), generator=draw)
    places = torch.arange(30)
    response = ((places >= begins) & (places < ends)).double()
    old = -3.0 * uniform()
    advantages = 4.0 * uniform() - 2.0
    advantages = advantages if by_token else advantages[:, :1]
    batch = PaddedTensors(
        tokens=torch.zeros(shape, dtype=torch.int64),
        response=response,
        logprobs=old - 0.3 * uniform(),
        proximal=old,
        reference=torch.zeros(shape, dtype=torch.float64),
        advantages=advantages,
    )
    new = (old + spread * (2.0 * uniform() - 1.0))[:, 1:].requires_grad_()
    return batch, new


def loss_of(new, batch, settings, first=False):
    loss, metrics = grpo_loss_of(
        TokenScores(new, torch.zeros_like(new)),
        batch,
        settings=settings,
        minibatch_tokens=int(batch.response.sum()),
        minibatch_sequences=len(batch.response),
        response_limit=LIMIT,
        first=first,
    )
    return loss, metrics


def test_every_name_has_a_published_formula_here():
    assert FORMULAS.keys() == PUBLISHED.keys()


# Of GSPO with advantages by token there is a test below.
@pytest.mark.parametrize(
    ("name", "by_token"),
    [(name, False) for name in FORMULAS] + [(name, True) for name in FORMULAS if name != "gspo"],
)
def test_a_named_objective_has_the_published_loss_and_gradient(name, by_token):
    # Ratios of single tokens are clipped at far larger differences than means over a response are.
    batch, new = random_batch(spread=2.5 if name == "cispo" else 0.7, by_token=by_token)
    settings = ObjectiveSettings(name=name, importance_cap=None)
    loss, metrics = loss_of(new, batch, settings)
    (gradient,) = torch.autograd.grad(loss, new)
    advantages = batch.advantages.expand(16, 30)[:, 1:]
    mask = batch.response[:, 1:]
    expected = FORMULAS[name](new, batch.proximal[:, 1:], advantages, mask)
    (published,) = torch.autograd.grad(expected, new)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, published, rtol=1e-9, atol=1e-12)
    clipped = metrics["actor/pg_clipfrac"][mask > 0].double().mean()
    assert 0.02 < clipped < 0.98
    assert metrics["actor/pg_clipfrac"].shape == mask.shape
    assert not metrics["actor/pg_clipfrac_lower"].any()


def test_verls_gspo_by_token_is_the_loss_where_advantages_differ_by_token():
    batch, new = random_batch(by_token=True)
    mask, old, advantages = batch.response[:, 1:], batch.proximal[:, 1:], batch.advantages[:, 1:]
    loss, _ = loss_of(new, batch, ObjectiveSettings(name="gspo", importance_cap=None))
    (gradient,) = torch.autograd.grad(loss, new)
    mean = torch.sum((new - old) * mask, dim=-1) / torch.sum(mask, dim=-1)
    ratio = torch.exp(new - new.detach() + mean.detach().unsqueeze(-1))
    each = torch.maximum(-advantages * ratio, -advantages * torch.clamp(ratio, 1 - 3e-4, 1 + 4e-4))
    expected = ((each * mask).sum(-1) / mask.sum(-1)).mean()
    (published,) = torch.autograd.grad(expected, new)
    torch.testing.assert_close(gradient, published, rtol=1e-9, atol=1e-12)


def test_verls_cispo_is_the_loss_with_its_clip():
    batch, new = random_batch()
    settings = ObjectiveSettings(name="cispo", clip_low=1.0, clip_high=0.2, importance_cap=None)
    loss, _ = loss_of(new, batch, settings)
    (gradient,) = torch.autograd.grad(loss, new)
    mask, old = batch.response[:, 1:], batch.proximal[:, 1:]
    # clip_ratio_low=10 in its example: no lower clip.
    weight = torch.clamp(torch.exp(new - old), 1 - 10, 1 + 0.2).detach()
    expected = (-weight * batch.advantages * new * mask).sum() / mask.sum()
    (published,) = torch.autograd.grad(expected, new)
    torch.testing.assert_close(gradient, published, rtol=1e-9, atol=1e-12)


def test_the_first_gradient_of_rloo_is_that_of_reinforce_on_whole_responses():
    batch, new = random_batch()
    loss, _ = loss_of(
        new, batch._replace(logprobs=_with_first(new)), ObjectiveSettings(name="rloo"), first=True
    )
    (gradient,) = torch.autograd.grad(loss, new)
    of_responses = (new * batch.response[:, 1:]).sum(-1)
    expected = -(batch.advantages[:, 0] * of_responses).mean()
    (published,) = torch.autograd.grad(expected, new)
    torch.testing.assert_close(gradient * LIMIT, published)


def _with_first(new):
    """These values of the predicted tokens, and a position before them."""
    return torch.nn.functional.pad(new.detach(), (1, 0))


@pytest.mark.parametrize("name", FORMULAS)
def test_the_first_gradient_is_the_policy_gradient_with_weights_for_the_engine(name):
    batch, new = random_batch()
    loss, metrics = loss_of(
        new, batch, ObjectiveSettings(name=name, importance_cap=1.3), first=True
    )
    (gradient,) = torch.autograd.grad(loss, new)
    mask, sampled = batch.response[:, 1:], batch.logprobs[:, 1:]
    log_weight = new.detach() - sampled
    if name == "gspo":
        log_weight = ((log_weight * mask).sum(-1) / mask.sum(-1)).unsqueeze(-1)
    weights = log_weight.exp().clamp(max=1.3).expand_as(mask)
    assert 0.02 < (weights == 1.3).double().mean() < 0.98
    shares = token_weights(
        mask,
        ObjectiveSettings(name=name).aggregation,
        minibatch_tokens=int(mask.sum()),
        minibatch_sequences=16,
        response_limit=LIMIT,
    )
    torch.testing.assert_close(gradient, -weights * batch.advantages * shares)
    torch.testing.assert_close(metrics["rollout/importance_mean"], weights)
    torch.testing.assert_close(metrics["rollout/importance_clipfrac"], weights == 1.3)


@pytest.mark.parametrize("name", ["gspo", "cispo", "ppo"])
def test_an_uncapped_weight_times_the_ratio_is_the_ratio_to_the_policy_that_sampled(name):
    batch, new = random_batch()
    wide = {"clip_low": 1.0, "clip_high": 1e9, "name": name}
    corrected, _ = loss_of(new, batch, ObjectiveSettings(importance_cap=1e9, **wide))
    to_sampled = batch._replace(proximal=batch.logprobs)
    plain, _ = loss_of(new, to_sampled, ObjectiveSettings(importance_cap=None, **wide))
    torch.testing.assert_close(corrected, plain)
    torch.testing.assert_close(*(torch.autograd.grad(loss, new)[0] for loss in (corrected, plain)))


@pytest.mark.parametrize("name", FORMULAS)
def test_a_sequence_without_a_response_adds_nothing(name):
    batch, new = random_batch()
    response = batch.response.clone()
    response[3] = 0.0
    settings = ObjectiveSettings(name=name)
    loss, _ = loss_of(new, batch._replace(response=response), settings)
    (gradient,) = torch.autograd.grad(loss, new)
    assert torch.isfinite(gradient).all()
    assert (gradient[3] == 0).all()
    assert sequence_mean(new, response[:, 1:])[3] == 0
