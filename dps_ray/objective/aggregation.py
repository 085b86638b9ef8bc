"""How the losses of tokens become the loss of a minibatch: the weight of each token.

Weights are relative to the whole minibatch instead of a micro-batch. The weighted sum is therefore the same loss for any
split into micro-batches and any number of ranks.
"""

from torch import Tensor

from dps_ray.objective.settings import Aggregation


def token_weights(
    mask: Tensor,
    aggregation: Aggregation,
    *,
    minibatch_tokens: int,
    minibatch_sequences: int,
    response_limit: int | None = None,
) -> Tensor:
    """The weight of each token in the minibatch's loss.

    - ``token-mean`` (DAPO, arXiv 2503.14476, eq. 12): every response token of the minibatch has the same weight.
    - ``sequence-mean`` (GRPO, arXiv 2402.03300, eq. 3): every response has the same weight, divided equally among its
      tokens.
    - ``sequence-sum`` (Dr. GRPO, arXiv 2503.20783): every token has the weight 1 / response_limit in its
      response, and every response the same weight. It does not depend on lengths. As in verl's
      ``seq-mean-token-sum-norm``, averaged over responses, and TRL's ``dr_grpo``.

    Over the minibatch the weights of the first two sum to one.

    Args:
        mask: (b, t) float, 1 on response tokens.
        minibatch_tokens: response tokens of the whole minibatch, over all ranks.
        minibatch_sequences: responses of the whole minibatch, over all ranks.
        response_limit: the most tokens that a response can have; needed by ``sequence-sum``.

    Returns:
        (b, t) float32, zero where the mask is zero.

    Raises:
        ValueError: ``sequence-sum`` without a limit.
    """
    if aggregation == "token-mean":
        return mask / minibatch_tokens
    if aggregation == "sequence-mean":
        return mask / mask.sum(-1, keepdim=True).clamp_min(1.0) / minibatch_sequences
    if response_limit is None:
        raise ValueError("aggregation=sequence-sum needs response_limit, the constant to divide by")
    return mask / (minibatch_sequences * response_limit)
