"""Sequence parallelism (DeepSpeed Ulysses, https://arxiv.org/abs/2309.14509): N learner ranks share each sequence.

    a micro-batch, the same on N ranks ──> this rank's 1/N of the positions ──> body ──> head ──> scores of the slice
                                                                                 ▲▼                       │
                                         in attention alone: all positions, 1/N of the heads              ▼
                    gradients <── loss of the whole micro-batch, the same on N ranks <── scores of all slices

Each rank holds 1/N of the activations, so sequences may be N times as long. The ranks r N to r N + N - 1 are a group.

Attention is DeepSpeed's `UlyssesSPAttentionHF`, around PyTorch's scaled dot-product attention. Two things of
DeepSpeed are left out:

- `register_with_transformers` replaces that attention for every model in the process, and works for micro-batches of a
  single number of sequences. Here the attention has a name of its own, and one module for each number of sequences.
- Its sequence parallel groups are not given to `deepspeed.initialize`. DeepSpeed would average gradients over the groups
  and call the ranks of a group model parallel ranks, in its checkpoints too. Without them all ranks are data parallel
  ranks to it: gradients are averaged over all, as for N = 1, and states are divided among all, so that a checkpoint does not
  depend on N.

A slice is 1/N of the columns, and not every N-th, because DeepSpeed's attention puts slices together in the order of ranks.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from actors.model_files import without_weights
from dps_ray.errors import ConfigError, ModelError

_ATTENTION = "ulysses"  # in transformers' table of attention functions


class Slice(NamedTuple):
    """The positions of a micro-batch that one rank computes, t' of them in each of b sequences."""

    tokens: Tensor  # (b, t') int64
    targets: Tensor  # (b, t') int64, the token after each; 0 after the last
    scored: Tensor  # (b, t') bool, the targets to score; one at least, if of no response
    positions: dict[str, Tensor]  # the model's input of positions, if it cannot count them itself


class SequenceParallel:
    """The ranks that share sequences with this one.

    Args:
        size: N, the ranks that share a sequence. With 1 a slice is the whole micro-batch.
        ranks: of the learner, a multiple of N. With N > 1 all of them construct this together, after the process group.
    """

    def __init__(self, size: int = 1, rank: int = 0, ranks: int = 1):
        self.size = size
        self.groups = ranks // size
        self.group, self.place = divmod(rank, size)
        self._process_group: Any = None
        if size > 1:
            from deepspeed.runtime.sequence_parallel import parallel_state_sp
            from transformers import AttentionInterface

            parallel_state_sp.initialize_sequence_parallel(size)
            self._process_group = parallel_state_sp.get_sequence_parallel_group()
            # transformers makes no attention mask for it, as it registers no function for one.
            AttentionInterface.register(_ATTENTION, _attention(self._process_group))

    @property
    def first(self) -> bool:
        """Whether this rank is the first of its group, which speaks for it where ranks are summed up."""
        return self.place == 0

    def divided(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many positions of sequences with these lengths each rank of a group computes at most."""
        return -(-lengths // self.size)

    def adopt(self, model: Any) -> None:
        """Give a model, which is loaded but not in use yet, the attention of a group.

        Raises:
            ConfigError, ModelError: see `check_model`.
        """
        if self.size == 1:
            return
        _check(model, self.size)
        model.set_attn_implementation(_ATTENTION)

    def own_slice(self, tokens: Tensor, response: Tensor) -> Slice:
        """Return this rank's slice of a micro-batch, which is padded to a multiple of N.

        Args:
            tokens: (b, t) int64.
            response: (b, t), above 0 on the tokens that are to be scored. The first of a sequence is left out.
        """
        length = tokens.shape[1]
        width = -(-length // self.size)
        columns = slice(self.place * width, (self.place + 1) * width)
        after = (0, self.size * width - length)
        following = (pad(each[:, 1:], (0, 1)) for each in (tokens, response > 0))
        mine, targets, scored = (pad(each, after)[:, columns] for each in (tokens, *following))
        if not scored.any():
            # The pass is a collective, and for its gradients something must be scored.
            scored = scored.clone()
            scored[0, 0] = True
        positions = {}
        if self.size > 1:
            numbers = torch.arange(columns.start, columns.stop, device=tokens.device)
            positions["position_ids"] = numbers.unsqueeze(0)
        return Slice(mine, targets, scored, positions)

    def whole(self, values: Tensor, length: int) -> Tensor:
        """Return the values of all slices side by side, without padding: (b, t') -> (b, length).

        Only this rank's own values carry a gradient. What follows is the same on all ranks of the group, so each rank
        finds the gradient for its own slice, and the sum over ranks is the whole, counted once.
        """
        if self.size > 1:
            parts = [torch.empty_like(values) for _ in range(self.size)]
            torch.distributed.all_gather(parts, values.detach(), group=self._process_group)
            parts[self.place] = values
            values = torch.cat(parts, dim=1)
        return values[:, :length]


def check_model(path: str, size: int) -> None:
    """Check that N = `size` ranks can share the sequences of this model, without loading it.

    Args:
        path: Hugging Face folder or name.

    Raises:
        ConfigError: it is a vision-language model.
        ModelError: its attention is not of the kind that can be divided, or N does not divide its heads.
    """
    if size > 1:
        _check(without_weights(path), size)


def _check(model: Any, size: int) -> None:
    config, name = model.config, type(model).__name__
    setting = f"learner.sequence_parallel={size}"
    if config.get_text_config() is not config:
        raise ConfigError(
            f"{setting}: {name} is a vision-language model, and ranks can share the sequences of language models only; "
            "set learner.sequence_parallel=1"
        )
    through_the_table = model._supports_attention_backend and model._can_set_attn_implementation()
    if config._attn_implementation != "sdpa" or not through_the_table:
        raise ModelError(
            f"{setting}: {name} computes attention by code of its own, which cannot be divided among ranks; set "
            "learner.sequence_parallel=1"
        )
    other = _not_full_attention(model)
    if other:
        raise ModelError(
            f"{setting}: {name} has {other}, and ranks can share sequences where every layer attends to all tokens "
            "before; set learner.sequence_parallel=1"
        )
    heads, kv_heads = config.num_attention_heads, _kv_heads(config)
    if heads % size or (kv_heads % size and size % kv_heads):
        fits = [
            n for n in range(1, heads + 1) if not (heads % n or (kv_heads % n and n % kv_heads))
        ]
        raise ModelError(
            f"{setting}: {name} has {heads} attention heads and {kv_heads} heads of keys and values, which are "
            f"divided among the ranks that share a sequence; it can be {', '.join(map(str, fits))}"
        )


def _not_full_attention(model: Any) -> str | None:
    """Return what the model has besides causal attention to all tokens; None if it has nothing else."""
    config = model.config
    kinds = sorted({*(getattr(config, "layer_types", None) or ())} - {"full_attention"})
    if kinds:
        return f"layers of the kind {' and '.join(kinds)}"
    if getattr(config, "sliding_window", None):
        return f"a sliding window of {config.sliding_window} tokens"
    if getattr(config, "kv_lora_rank", None):
        return "latent attention"  # keys and values have different sizes
    return "a recurrent state" if model._is_stateful else None


def _kv_heads(config: Any) -> int:
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def _attention(process_group: Any) -> Callable[..., Any]:
    """Return an attention function as transformers calls it, for models of any shape."""
    from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    @cache
    def of(sequences: int, heads: int, kv_heads: int, head_size: int) -> Any:
        return UlyssesSPAttentionHF(
            attn=ALL_ATTENTION_FUNCTIONS["sdpa"],
            batch_size=sequences,
            attn_head_count=heads,
            attn_head_size=head_size,
            kv_head_count=kv_heads,
            num_hidden_layers=1,  # only a mode for debugging counts them
            process_group=process_group,
            seq_length_is_variable=True,
        )

    def attention(
        module: Any, query: Tensor, key: Tensor, value: Tensor, *others: Any, **named: Any
    ) -> Any:
        sequences, heads, _, head_size = query.shape
        divided = of(sequences, heads, key.shape[1], head_size)
        return divided(module, query, key, value, *others, **named)

    return attention
