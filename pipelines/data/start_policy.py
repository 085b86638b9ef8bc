"""The built-in start policy: a Llama with 0.86 million parameters that solves some of the arithmetic chains.

It is trained once, for a minute or two, on demonstrations with deliberate errors
(`dps_ray.tasks.arithmetic.SLIP`): it can write a chain, but gets most products wrong. The setup is
artificial; its purpose is to show reinforcement learning at work on a CPU.

    python -m pipelines.data.start_policy        makes the policy if needed, and prints its success rates
"""

import argparse
import fcntl
import hashlib
import json
import math
import os
import random
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import rich.progress
import rich.table
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dps_ray.paths import path_option
from dps_ray.tasks import arithmetic
from dps_ray.tasks.arithmetic import LEVELS, Level
from pipelines.data.builtin import cache, kept_in

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
VOCABULARY = {token: i for i, token in enumerate((*SPECIAL, *"0123456789+-*=,;()? "))}
PAD, BOS, EOS = (VOCABULARY[token] for token in SPECIAL[:3])
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"

Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Recipe:
    """Everything that a policy depends on. Its hash names the policy's folder."""

    seed: int = 0
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    intermediate: int = 384
    tied: bool = False
    # Chains of one to six steps, with any number of products.
    demonstrated: tuple[Level, ...] = tuple(Level(n, m) for n in range(1, 7) for m in range(n + 1))
    steps: int = 500
    batch_size: int = 64  # demonstrations per step
    learning_rate: float = 3e-3
    warmup: int = 50  # steps until the learning rate reaches its peak; it then falls to a tenth

    def folder_name(self) -> str:
        slips = (arithmetic.SLIP, arithmetic.SLIP_TO_SUM)
        text = json.dumps([asdict(self), VOCABULARY, CHAT_TEMPLATE, slips])
        return "policy-" + hashlib.sha256(text.encode()).hexdigest()[:12]


def ensure_start_policy(folder: Path, seed: int = 0, progress: Progress | None = None) -> Path:
    """The Hugging Face folder of the start policy, which is trained if it is not in `folder` yet.

    `progress` is called with (step, total steps, loss). Several processes may call this at once: one
    trains the policy, and the others wait. The same seed gives the same policy on the same machine.
    """
    return _ensure(folder, Recipe(seed=seed), progress)


def tiny_policy(folder: Path, seed: int = 0, tied: bool = False, steps: int = 0) -> Path:
    """A policy with 0.1 million parameters for tests, untrained or trained on sums alone.

    After 150 steps, which take some seconds, it solves some chains of one to three sums.
    """
    recipe = Recipe(
        seed=seed,
        hidden=64,
        layers=2,
        heads=2,
        intermediate=192,
        tied=tied,
        demonstrated=LEVELS[:3],
        steps=steps,
        warmup=20,
    )
    return _ensure(folder, recipe, None)


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
    """A policy trained on noisy demonstrations, with next-token loss on the responses only."""
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


@torch.no_grad()
def success_rates(
    model: LlamaForCausalLM, level: Level, prompts: int, responses: int, rng: random.Random
) -> torch.Tensor:
    """The fraction of right responses at temperature 1 for each of some random prompts: (prompts,)."""
    problems = [arithmetic.make_problem(level, rng) for _ in range(prompts)]
    tokens = torch.tensor([encode(p) for p in problems]).repeat_interleave(responses, 0)
    sampled = model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        do_sample=True,
        top_k=0,
        max_new_tokens=6 * level.operations + 4,
    )
    characters = list(VOCABULARY)
    right = []
    for row, response in enumerate(sampled[:, tokens.shape[1] :].tolist()):
        text = "".join(characters[t] for t in response if t not in (PAD, EOS))
        chain = arithmetic.demonstration(problems[row // responses])
        right.append(arithmetic.score(text, chain)["acc"])
    return torch.tensor(right).view(prompts, responses).mean(1)


def _ensure(folder: Path, recipe: Recipe, progress: Progress | None) -> Path:
    path = folder / recipe.folder_name()
    if path.exists():  # checked before locking, because the cache may be read-only
        return path
    with kept_in(folder), _locked(folder / f".{path.name}.lock"):
        if not path.exists():
            aside = folder / f".{path.name}.making"
            shutil.rmtree(aside, ignore_errors=True)
            with torch.random.fork_rng(devices=[]):
                model = warm_start(recipe, progress)
            transformers.utils.logging.disable_progress_bar()  # writing the files takes milliseconds
            model.save_pretrained(aside)
            build_tokenizer().save_pretrained(aside)
            os.rename(aside, path)
    return path


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock during a block. The operating system releases it if the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


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


class _Batch(NamedTuple):
    """Demonstrations whose prompts have equal length; the first `prompt_length` tokens of each are its prompt."""

    tokens: torch.Tensor  # int64 (demonstrations, length)
    prompt_length: int


class _Part(NamedTuple):
    """One batch's contribution to a step: sums over its `tokens` response tokens."""

    loss: float
    gradients: tuple[torch.Tensor, ...]
    tokens: int


def _demonstrations(recipe: Recipe, rng: random.Random) -> list[_Batch]:
    """Noisy demonstrations grouped by prompt length, so that none is padded; longest first, to keep all cores busy."""
    by_length: dict[int, list[list[int]]] = defaultdict(list)
    for _ in range(recipe.batch_size):
        prompt = arithmetic.make_problem(rng.choice(recipe.demonstrated), rng)
        response = arithmetic.noisy_demonstration(prompt, rng)
        by_length[len(prompt)].append([*encode(prompt + response), EOS])
    return [_Batch(torch.tensor(by_length[n]), n) for n in sorted(by_length, reverse=True)]


def _gradient(model: LlamaForCausalLM, weights: list[torch.Tensor], batch: _Batch) -> _Part:
    targets = batch.tokens[:, batch.prompt_length :].flatten()
    logits = model(batch.tokens[:, :-1]).logits[:, batch.prompt_length - 1 :]
    loss = cross_entropy(logits.flatten(0, 1), targets, reduction="sum")
    return _Part(loss.item(), torch.autograd.grad(loss, weights), len(targets))


def main() -> None:
    """Makes the built-in start policy if it is missing, and prints its success rate at each level."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--folder", type=path_option, default=cache(), help="folder that the policy is kept in"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the training and of the sampled problems (0)"
    )
    arguments = parser.parse_args()
    with rich.progress.Progress() as bar:
        task = bar.add_task("warm start")

        def show(step: int, steps: int, loss: float) -> None:
            bar.update(
                task, completed=step, total=steps, description=f"warm start, loss {loss:.3f}"
            )
            if step == steps:
                bar.console.print(f"loss per response token after {steps} steps: {loss:.3f}")

        path = ensure_start_policy(arguments.folder, arguments.seed, show)
        bar.update(task, visible=False)
        bar.console.print(f"start policy: {path}")

        model = LlamaForCausalLM.from_pretrained(path)
        rng = random.Random(arguments.seed)
        torch.manual_seed(arguments.seed)
        table = rich.table.Table("level", "right", "partial groups of 8", title="at temperature 1")
        everything = []
        for level in bar.track(LEVELS, description="sampling"):
            rates = success_rates(model, level, prompts=32, responses=8, rng=rng)
            table.add_row(str(level), *_summary(rates))
            everything.append(rates)
        table.add_section()
        table.add_row("all levels", *_summary(torch.cat(everything)))
    bar.console.print(table)


def _summary(rates: torch.Tensor) -> tuple[str, str]:
    partial = ((rates > 0) & (rates < 1)).float().mean()
    return f"{rates.mean():.2f}", f"{partial:.2f}"


if __name__ == "__main__":
    main()
