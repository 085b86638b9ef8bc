"""The losses of a policy's tokens, from their log-probabilities and advantages.

Each is to be minimised, with one value per token, (b, t). What weight a token has in the loss of a minibatch is said by
`dps_ray.objective.aggregation`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from dps_ray.objective.settings import ObjectiveSettings


class PolicyLoss(NamedTuple):
    """The loss of each token and whether it was clipped, each (b, t)."""

    loss: Tensor  # to be minimised
    clipped: Tensor  # bool: the upper or lower clip is active
    dual_clipped: Tensor  # bool: the dual clip is active


def loss_by(
    settings: ObjectiveSettings,
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
) -> PolicyLoss:
    """The loss that `objective.loss` names. Arguments as in `sequence_loss`."""
    low, high, dual = settings.clip_low, settings.clip_high, settings.dual_clip
    if settings.loss == "clipped_weight":
        return weighted_loss(logprobs, old_logprobs, advantages, clip_low=low, clip_high=high)
    if settings.loss == "sequence_ratio":
        return sequence_loss(
            logprobs, old_logprobs, advantages, mask, clip_low=low, clip_high=high, dual_clip=dual
        )
    return policy_loss(
        logprobs, old_logprobs, advantages, clip_low=low, clip_high=high, dual_clip=dual
    )


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float | None = 10.0,
) -> PolicyLoss:
    """The clipped surrogate loss (PPO, arXiv 1707.06347, eq. 7), with

    - a separate upper clip (clip-higher; DAPO, arXiv 2503.14476, eq. 10), and
    - dual clip (arXiv 1912.09729, eq. 5): for a negative advantage the loss is at most
      ``dual_clip * |advantage|``, so that a very large ratio cannot dominate the batch.

    As in verl's ``compute_policy_loss_vanilla``, the log-ratio is clamped to [-20, 20].

    Args:
        logprobs: (b, t) log-probabilities of the policy in training; they carry the gradient.
        old_logprobs: (b, t) log-probabilities of the policy in the ratio's denominator.
        advantages: (b, t) or (b, 1).
        dual_clip: above 1; None: no dual clip.
    """
    ratio = (logprobs - old_logprobs).clamp(-20.0, 20.0).exp()
    return _clipped(ratio, advantages, clip_low, clip_high, dual_clip)


def sequence_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
    dual_clip: float | None = None,
) -> PolicyLoss:
    """The clipped surrogate loss of a response's ratio ``exp(mean(log p - log p_old))`` (GSPO, arXiv 2507.18071, eq. 5 and 7).

    The ratio's value is the same at all tokens of a response. Its gradient at a token is that of the token's own
    log-probability (GSPO-token, eq. 13 and 14), so that the mean over the response has the gradient of eq. 7, and
    advantages may differ by token. As in verl's ``compute_policy_loss_gspo``.

    Args:
        logprobs: (b, t) log-probabilities of the policy in training; they carry the gradient.
        old_logprobs: (b, t) log-probabilities of the policy in the ratio's denominator.
        advantages: (b, t) or (b, 1).
        mask: (b, t) float, 1 on response tokens.
        dual_clip: above 1; None: no dual clip.
    """
    log_ratio = sequence_mean(logprobs - old_logprobs, mask).clamp(-20.0, 20.0).detach()
    ratio = (log_ratio + logprobs - logprobs.detach()).exp()
    return _clipped(ratio, advantages, clip_low, clip_high, dual_clip)


def weighted_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float = 1.0,
    clip_high: float = 4.0,
) -> PolicyLoss:
    """The log-probability of each token times its advantage and its clipped ratio, which carries no gradient (CISPO, MiniMax-M1,
    arXiv 2506.13585, eq. 4 and 5).

    A clipped token keeps its gradient, unlike in `policy_loss`. As in verl's ``compute_policy_loss_cispo``, where the
    weight is in [1 - clip_low, 1 + clip_high]; TRL's ``epsilon_high`` is 1 + clip_high.

    Args:
        logprobs: (b, t) log-probabilities of the policy in training; they carry the gradient.
        old_logprobs: (b, t) log-probabilities of the policy in the ratio's denominator.
        advantages: (b, t) or (b, 1).
    """
    ratio = (logprobs - old_logprobs).clamp(-20.0, 20.0).exp().detach()
    weight = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    return PolicyLoss(
        loss=-weight * advantages * logprobs,
        clipped=weight != ratio,
        dual_clipped=torch.zeros_like(ratio, dtype=torch.bool),
    )


def _clipped(
    ratio: Tensor,
    advantages: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
) -> PolicyLoss:
    plain = -advantages * ratio
    bounded = -advantages * ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    surrogate = torch.maximum(plain, bounded)
    clipped = bounded > plain
    if dual_clip is None:
        return PolicyLoss(surrogate, clipped, torch.zeros_like(clipped))
    ceiling = -advantages * dual_clip
    negative = advantages < 0
    return PolicyLoss(
        loss=torch.where(negative, torch.minimum(surrogate, ceiling), surrogate),
        clipped=clipped,
        dual_clipped=negative & (surrogate > ceiling),
    )


def sequence_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of each row over the tokens of its response: (b, t) -> (b, 1), 0 without a response."""
    return (values * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp_min(1.0)


def importance_weights(proximal: Tensor, sampled: Tensor, cap: float) -> Tensor:
    """Weights of truncated importance sampling: ``min(proximal / sampled, cap)`` per token, without gradient.

    They correct for an engine that samples with older weights, or computes in another precision, than the
    learner. The truncation is IMPALA's (arXiv 1802.01561, eq. 1). The proximal policy is separate from the
    policy that sampled (decoupled PPO, arXiv 2110.00641, eq. 7), as in verl and OpenRLHF.

    Args:
        proximal: (b, t) log-probabilities of the learner's policy before the batch's first update.
        sampled: (b, t) log-probabilities of the engine's policy.
        cap: upper bound on a weight, above 0.
    """
    return (proximal - sampled).clamp(-20.0, 20.0).exp().clamp(max=cap).detach()


def importance_weights_by(
    settings: ObjectiveSettings, proximal: Tensor, sampled: Tensor, mask: Tensor, cap: float
) -> Tensor:
    """The weights that go with `objective.loss`: (b, t).

    A token's ratio is corrected for the token. A response's ratio is corrected by the weight of the response, the geometric
    mean of its tokens' ratios, truncated as one: the product of both is the response's ratio to the policy that sampled.
    """
    if settings.loss != "sequence_ratio":
        return importance_weights(proximal, sampled, cap)
    both = sequence_mean(proximal, mask), sequence_mean(sampled, mask)
    return importance_weights(*both, cap).expand_as(mask)
