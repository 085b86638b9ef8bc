"""Trains a built-in start policy on demonstrations with deliberate errors."""

import math
import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pipelines.data.demonstrations import Part, demonstration
from pipelines.data.policy_recipe import BOS, CHAT_TEMPLATE, EOS, PAD, VOCABULARY, Recipe

Progress = Callable[[int, int, float], None]


def write_policy(folder: Path, recipe: Recipe, progress: Progress | None = None) -> None:
    """Trains a policy and writes it as a Hugging Face folder. The caller's random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        model = warm_start(recipe, progress)
    transformers.utils.logging.disable_progress_bar()  # writing the files takes milliseconds
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token per character. Its chat template only joins the messages' contents."""
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def encode(text: str) -> list[int]:
    """The tokens of a text made of the vocabulary's characters; the same as by `build_tokenizer`, but faster."""
    return [VOCABULARY[character] for character in text]


def warm_start(recipe: Recipe, progress: Progress | None = None) -> LlamaForCausalLM:
    """A policy trained on noisy demonstrations, with next-token loss on what the policy writes only."""
    torch.manual_seed(recipe.seed)
    rng = random.Random(recipe.seed)
    model = LlamaForCausalLM(_architecture(recipe)).train()
    weights = list(model.parameters())
    optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.95), weight_decay=0.01)
    # Each batch runs on one core, because kernels this small are slower on several cores.
    with _one_thread_per_kernel(), ThreadPoolExecutor(len(os.sched_getaffinity(0))) as cores:
        for step in range(recipe.steps):
            optimizer.param_groups[0]["lr"] = _learning_rate(recipe, step)
            batches = _demonstrations(recipe, rng)
            parts = list(cores.map(lambda batch: _gradient(model, weights, batch), batches))
            tokens = sum(part.tokens for part in parts)
            for weight, *gradients in zip(
                weights, *(part.gradients for part in parts), strict=True
            ):
                weight.grad = torch.stack(gradients).sum(0) / tokens
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            if progress is not None:
                progress(step + 1, recipe.steps, sum(part.loss for part in parts) / tokens)
    return model.eval()


@contextmanager
def _one_thread_per_kernel() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _architecture(recipe: Recipe) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        intermediate_size=recipe.intermediate,
        max_position_embeddings=256,
        tie_word_embeddings=recipe.tied,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )


def _learning_rate(recipe: Recipe, step: int) -> float:
    """The learning rate of a step: linear warm-up, then cosine decay to a tenth."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
    return recipe.learning_rate * min(1.0, (step + 1) / recipe.warmup) * (0.1 + 0.9 * cosine)


_IGNORED = -100  # the target of tokens that the policy does not write: no loss
_BUCKET = 8  # tokens by which the lengths of demonstrations in a batch may differ


class _Batch(NamedTuple):
    """Demonstrations of about the same length, padded on the right.

    tokens:  int64 (demonstrations, length)
    targets: int64 (demonstrations, length): the tokens that the policy writes, `_IGNORED` elsewhere
    """

    tokens: torch.Tensor
    targets: torch.Tensor


class _Part(NamedTuple):
    """One batch's contribution to a step: sums over the `tokens` that the policy writes."""

    loss: float
    gradients: tuple[torch.Tensor, ...]
    tokens: int


def _demonstrations(recipe: Recipe, rng: random.Random) -> list[_Batch]:
    """Noisy demonstrations grouped by length, so that little is padded; longest first, to keep all cores busy."""
    by_length: dict[int, list[tuple[list[int], list[int]]]] = defaultdict(list)
    for _ in range(recipe.batch_size):
        parts = demonstration(recipe.task, rng.choice(recipe.demonstrated), rng)
        tokens, targets = tokens_and_targets(parts)
        by_length[-(-len(tokens) // _BUCKET)].append((tokens, targets))
    return [_padded(by_length[n]) for n in sorted(by_length, reverse=True)]


def tokens_and_targets(parts: Sequence[Part]) -> tuple[list[int], list[int]]:
    """The tokens of a demonstration, and the same with -100 where the policy does not write. What it writes ends in
    the end-of-sequence token, as in a run."""
    texts = [[*encode(part.text), *[EOS] * part.written] for part in parts]
    targets = [
        text if part.written else [_IGNORED] * len(text)
        for text, part in zip(texts, parts, strict=True)
    ]
    return list(chain(*texts)), list(chain(*targets))


def _padded(demonstrations: list[tuple[list[int], list[int]]]) -> _Batch:
    length = max(len(tokens) for tokens, _ in demonstrations)
    rows = [
        (
            [*tokens, *[PAD] * (length - len(tokens))],
            [*targets, *[_IGNORED] * (length - len(targets))],
        )
        for tokens, targets in demonstrations
    ]
    return _Batch(*(torch.tensor(column) for column in zip(*rows, strict=True)))


def _gradient(model: LlamaForCausalLM, weights: list[torch.Tensor], batch: _Batch) -> _Part:
    # Causal attention needs no mask for padding on the right, which later tokens alone would see.
    logits = model(batch.tokens[:, :-1]).logits
    targets = batch.targets[:, 1:].flatten()
    loss = cross_entropy(logits.flatten(0, 1), targets, reduction="sum", ignore_index=_IGNORED)
    written = int((targets != _IGNORED).sum())
    return _Part(loss.item(), torch.autograd.grad(loss, weights), written)
