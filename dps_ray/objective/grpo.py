"""The objective on tensors: the policy's loss, KL to a reference, entropy.

    scores of the policy ──> loss of each token (policy_losses.py) ┐
    reference, entropy ────> KL and entropy bonus of each token    ┴─ weighted (aggregation.py) ──> a scalar

Each term has one value per token, shape (b, t). `token_weights` gives each token's weight in the loss, relative to
the whole minibatch instead of its micro-batch. The weighted sum is therefore the same loss for any split into
micro-batches and any number of ranks.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from dps_ray.objective.aggregation import token_weights
from dps_ray.objective.policy_losses import importance_weights_by, loss_by
from dps_ray.objective.settings import ObjectiveSettings
from dps_ray.objective.trajectories import PaddedBatch


class PaddedTensors(NamedTuple):
    """A `PaddedBatch` as tensors."""

    tokens: Tensor  # (b, t) int64
    response: Tensor  # (b, t) float32
    logprobs: Tensor  # (b, t) float32
    proximal: Tensor  # (b, t) float32
    reference: Tensor  # (b, t) float32
    advantages: Tensor  # (b, t) float32, or (b, 1) if all tokens of a response have the same


def to_tensors(batch: PaddedBatch, device: torch.device) -> PaddedTensors:
    return PaddedTensors(*(torch.from_numpy(array).to(device) for array in batch))


class TokenScores(NamedTuple):
    """The log-probability and entropy that the objective needs for each predicted token, (b, t - 1) float32. Values
    outside the responses are ignored."""

    logprobs: Tensor
    entropy: Tensor  # nats


def token_logprobs(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """The log-probability of each target under ``softmax(logits / temperature)``.

    Args:
        logits: (b, t, vocabulary), any float dtype; computed in float32.
        targets: (b, t) int64.

    Returns:
        (b, t) float32.
    """
    logits = logits.float() / temperature
    chosen = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return chosen - logits.logsumexp(-1)


def token_entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """The entropy in nats of ``softmax(logits / temperature)``: (b, t, vocabulary) -> (b, t) float32."""
    logprobs = (logits.float() / temperature).log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1)


def kl_k3(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(policy || reference) per token: ``r - 1 - log r >= 0``, r = reference/policy.

    http://joschu.net/blog/kl-approx.html; GRPO, arXiv 2402.03300, eq. 4. As in verl's ``low_var_kl``, log r
    is clamped to [-20, 20] and the estimate to [-10, 10].
    """
    log_r = (reference_logprobs - logprobs).clamp(-20.0, 20.0)
    return (log_r.exp() - log_r - 1.0).clamp(-10.0, 10.0)


def kl_k2(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Schulman's k2 estimate of KL(policy || reference) per token: ``(log r)^2 / 2``, r = reference/policy.

    http://joschu.net/blog/kl-approx.html. On samples of the policy the expectation of its gradient is that of the KL
    divergence, as that of ``-log r`` in the reward is. As in verl's ``mse``.
    """
    return 0.5 * (reference_logprobs - logprobs).clamp(-20.0, 20.0).square()


def grpo_loss(
    logits: Tensor,
    reference_logits: Tensor | None,
    batch: PaddedTensors,
    *,
    settings: ObjectiveSettings,
    temperature: float,
    minibatch_tokens: int,
    minibatch_sequences: int,
    response_limit: int | None = None,
    first: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`grpo_loss_of` from all logits at once. This needs much memory: 42 GB for 3 sequences of 5,120 tokens with a
    vocabulary of 151,936.

    Args:
        logits: (b, t, vocabulary) of the policy in training; position i predicts token i + 1.
        reference_logits: (b, t, vocabulary) of the reference policy; required if ``kl_coef > 0``.
        minibatch_tokens, minibatch_sequences, response_limit: of the whole minibatch, see `token_weights`.
        first: whether this is the batch's first update, so that the policy in training is the proximal policy.
    """
    targets = batch.tokens[:, 1:]
    if reference_logits is not None:
        reference = torch.zeros_like(batch.reference)
        reference[:, 1:] = token_logprobs(reference_logits[:, :-1], targets, temperature)
        batch = batch._replace(reference=reference)
    return grpo_loss_of(
        score_tokens(logits[:, :-1], targets, temperature, settings.entropy_coef > 0),
        batch,
        settings=settings,
        minibatch_tokens=minibatch_tokens,
        minibatch_sequences=minibatch_sequences,
        response_limit=response_limit,
        first=first,
    )


def score_tokens(
    logits: Tensor, targets: Tensor, temperature: float, entropy_gradient: bool
) -> TokenScores:
    """The log-probability of each target, and the entropy, under ``softmax(logits / temperature)``.

    Args:
        logits: (..., vocabulary).
        targets: (...) int64.
        entropy_gradient: whether the entropy carries a gradient, as an entropy bonus in the loss requires.
    """
    logprobs = token_logprobs(logits, targets, temperature)
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        return TokenScores(logprobs, token_entropy(logits, temperature))


def grpo_loss_of(
    scores: TokenScores,
    batch: PaddedTensors,
    *,
    settings: ObjectiveSettings,
    minibatch_tokens: int,
    minibatch_sequences: int,
    response_limit: int | None = None,
    first: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """One micro-batch's contribution to the loss of its minibatch.

    Args:
        scores: log-probabilities and entropies of the policy in training.
        batch: the micro-batch; its `reference` is required if ``kl_coef > 0``.
        minibatch_tokens, minibatch_sequences, response_limit: of the whole minibatch, see `token_weights`.
        first: whether this is the batch's first update, so that the policy in training is the proximal policy.

    Returns:
        The loss, a scalar, and verl's metrics for each predicted token, each (b, t - 1).
    """
    logprobs, entropy = scores
    mask, sampled, proximal = batch.response[:, 1:], batch.logprobs[:, 1:], batch.proximal[:, 1:]
    corrected = settings.importance_cap is not None
    if first and corrected:
        proximal = logprobs.detach()
    # (b, 1), or the values of the predicted tokens.
    advantages = batch.advantages[:, -mask.shape[1] :]
    policy = loss_by(settings, logprobs, proximal, advantages, mask)
    loss = policy.loss
    metrics = {
        "actor/pg_clipfrac": policy.clipped,
        "actor/pg_clipfrac_lower": policy.dual_clipped,
        "actor/ppo_kl": proximal - logprobs,
        "actor/entropy": entropy,
    }
    if first or corrected:
        before = logprobs if first else proximal
        metrics["rollout/logprob_diff_mean"] = (sampled - before).abs()
    if settings.importance_cap is not None:
        weights = importance_weights_by(settings, proximal, sampled, mask, settings.importance_cap)
        loss = weights * loss
        metrics["rollout/importance_mean"] = weights
        metrics["rollout/importance_max"] = weights
        metrics["rollout/importance_clipfrac"] = weights >= settings.importance_cap
    metrics["actor/pg_loss"] = loss
    per_token = loss - settings.entropy_coef * entropy
    if settings.kl_coef > 0:
        estimate = kl_k3 if settings.kl_estimator == "k3" else kl_k2
        kl = estimate(logprobs, batch.reference[:, 1:])
        per_token = per_token + settings.kl_coef * kl
        metrics["actor/kl_loss"] = kl
    weights = token_weights(
        mask,
        settings.aggregation,
        minibatch_tokens=minibatch_tokens,
        minibatch_sequences=minibatch_sequences,
        response_limit=response_limit,
    )
    return (per_token * weights).sum(), metrics
