"""A language model whose forward pass returns the scores of response tokens instead of logits.

    tokens ──> body ──> hidden states ──> those before a response token ──> output head, a chunk at a time ──> scores

Logits of every position would need more memory than everything else: 42 GB at the peak for 15,360 tokens and a
vocabulary of 151,936. The logits of a chunk are computed for its scores and freed, and computed again in the backward pass.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from actors.images import NEVER
from actors.memory import CHUNK
from dps_ray.objective.grpo import TokenScores, score_tokens


def answer_with_scores(model: Any, never_sampled: Sequence[int] = ()) -> bool:
    """Make this model's forward pass return `TokenScores`; see `_forward` for its arguments.

    Args:
        model: a transformers model on the CPU.
        never_sampled: ids of tokens whose probability is zero.

    Returns:
        Whether only the output head follows the body. A model that changes the logits afterwards, such as Gemma 2 or
        Cohere, computes its own logits for all positions, and only the scores are computed in chunks.
    """
    head = model.get_output_embeddings()
    simple = _only_a_head_follows_the_body(model, head)
    rows = max(1, CHUNK // model.config.get_text_config().vocab_size)
    if simple:
        # The head is called as a module once a pass, since under ZeRO-3 that gathers its weights.
        head.forward = partial(scores_in_chunks, head.forward, rows, never_sampled)
        model.forward = partial(_forward, partial(_states, model), head)
    else:
        scores = partial(scores_in_chunks, lambda logits: logits, rows, never_sampled)
        model.forward = partial(_forward, partial(_logits, model.forward), scores)
    return simple


def _forward(
    states_of: Callable[..., Tensor],
    head: Callable[..., TokenScores],
    input_ids: Tensor,
    targets: Tensor,
    scored: Tensor,
    temperature: float,
    entropy_gradient: bool,
    **others: Tensor,
) -> TokenScores:
    """Return the scores of n tokens.

    Args:
        input_ids: (b, t), padded on the right. Attention is causal, so tokens before the padding need no mask, and
            without a mask attention can use its fastest kernels.
        targets: (b, t), the token after each.
        scored: (b, t) bool, true for the n targets that are scored.
        others: additional inputs: images of a vision-language model, positions.

    Returns:
        Each (n,) float32.
    """
    states = states_of(input_ids=input_ids, attention_mask=None, use_cache=False, **others)
    return head(states[scored], targets[scored], temperature, entropy_gradient)


def _states(model: Any, **inputs: Any) -> Tensor:
    states: Tensor = model.base_model(**inputs).last_hidden_state
    return states


def _logits(forward: Callable[..., Any], **inputs: Any) -> Tensor:
    logits: Tensor = forward(**inputs).logits
    return logits


def scores_in_chunks(
    head: Callable[[Tensor], Tensor],
    rows: int,
    never_sampled: Sequence[int],
    states: Tensor,
    targets: Tensor,
    temperature: float,
    entropy_gradient: bool,
) -> TokenScores:
    """Return the scores of the targets (n,) that are predicted from the states (n, h), `rows` at a time."""

    def scores(states: Tensor, targets: Tensor) -> TokenScores:
        logits = head(states)
        if never_sampled:
            ids = torch.tensor(never_sampled, device=logits.device)
            logits = logits.index_fill(-1, ids, NEVER)
        return score_tokens(logits, targets, temperature, entropy_gradient)

    if len(states) <= rows:  # few enough to keep their logits
        return scores(states, targets)
    parts = [
        checkpoint(scores, *chunk, use_reentrant=False, preserve_rng_state=False)
        for chunk in zip(states.split(rows), targets.split(rows), strict=True)
    ]
    return TokenScores(*map(torch.cat, zip(*parts, strict=True)))


def _only_a_head_follows_the_body(model: Any, head: Any) -> bool:
    tokens = torch.arange(1, 5).unsqueeze(0)  # 0 may be padding, whose embedding is zero
    with torch.no_grad():
        logits = model(input_ids=tokens, use_cache=False).logits
        return torch.equal(logits, head(_states(model, input_ids=tokens, use_cache=False)))
