"""The built-in start policies: Llamas with 0.86 million parameters. Each solves a part of a built-in task.

Each is trained once, for a few minutes, on demonstrations with deliberate errors
(`pipelines/data/demonstrations.py`): that of the arithmetic chains can write a chain, but gets most products wrong; that
of the calculator can use it, but often takes the operations in the wrong order. The setup is artificial; its purpose is
to show reinforcement learning at work on a CPU.

    python -m pipelines.data.start_policy [builtin:calculator-policy]

makes a policy if needed (that of the chains, if none is named), and prints its success rates.
"""

import argparse
import fcntl
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import rich.progress
import rich.table

from dps_ray.paths import path_option
from pipelines.data.builtin import cache, kept_in
from pipelines.data.demonstrations import TASKS
from pipelines.data.policy_recipe import RECIPES, Recipe

Progress = Callable[[int, int, float], None]


def ensure_start_policy(
    folder: Path,
    seed: int = 0,
    progress: Progress | None = None,
    name: str = "builtin:start-policy",
) -> Path:
    """The Hugging Face folder of the start policy of this name in `policy_recipe.RECIPES`, which is trained if it is not in
    `folder` yet.

    `progress` is called with (step, total steps, loss). Several processes may call this at once: one
    trains the policy, and the others wait. The same seed gives the same policy on the same machine.
    """
    return _ensure(folder, replace(RECIPES[name], seed=seed), progress)


def tiny_policy(
    folder: Path, seed: int = 0, tied: bool = False, steps: int = 0, task: str = "arithmetic"
) -> Path:
    """A policy with 0.1 million parameters for tests, untrained or trained on the first levels of a task alone.

    After 150 steps, which take some seconds, it solves some arithmetic chains of one to three sums.
    """
    recipe = Recipe(
        seed=seed,
        hidden=64,
        layers=2,
        heads=2,
        intermediate=192,
        tied=tied,
        demonstrated=TASKS[task].levels[:3],
        steps=steps,
        warmup=20,
        task=task,
    )
    return _ensure(folder, recipe, None)


def _ensure(folder: Path, recipe: Recipe, progress: Progress | None) -> Path:
    path = folder / recipe.folder_name()
    if path.exists():  # checked before locking, because the cache may be read-only
        return path
    with kept_in(folder), _locked(folder / f".{path.name}.lock"):
        if not path.exists():
            from pipelines.data.warm_start import write_policy  # with torch, which takes seconds

            aside = folder / f".{path.name}.making"
            shutil.rmtree(aside, ignore_errors=True)
            write_policy(aside, recipe, progress)
            os.rename(aside, path)
    return path


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock during a block. The operating system releases it if the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Makes a built-in start policy if it is missing, and prints its success rate at each level."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "name",
        nargs="?",
        choices=RECIPES,
        default="builtin:start-policy",
        help="the policy (builtin:start-policy)",
    )
    parser.add_argument(
        "--folder", type=path_option, default=cache(), help="folder that the policy is kept in"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the training and of the sampled problems (0)"
    )
    arguments = parser.parse_args()

    import torch
    from transformers import LlamaForCausalLM

    from pipelines.data.playing import success_rates

    with rich.progress.Progress() as bar:
        task = bar.add_task("warm start")

        def show(step: int, steps: int, loss: float) -> None:
            bar.update(
                task, completed=step, total=steps, description=f"warm start, loss {loss:.3f}"
            )
            if step == steps:
                bar.console.print(f"loss per response token after {steps} steps: {loss:.3f}")

        path = ensure_start_policy(arguments.folder, arguments.seed, show, arguments.name)
        bar.update(task, visible=False)
        bar.console.print(f"start policy: {path}")

        model = LlamaForCausalLM.from_pretrained(path)
        rng = random.Random(arguments.seed)
        torch.manual_seed(arguments.seed)
        table = rich.table.Table("level", "right", "partial groups of 8", title="at temperature 1")
        everything = []
        name = RECIPES[arguments.name].task
        for level in bar.track(TASKS[name].levels, description="sampling"):
            rates = success_rates(model, name, level, prompts=32, responses=8, rng=rng)
            table.add_row(str(level), *_summary(rates))
            everything.append(rates)
        table.add_section()
        table.add_row("all levels", *_summary(torch.cat(everything)))
    bar.console.print(table)


def _summary(rates: Any) -> tuple[str, str]:
    partial = ((rates > 0) & (rates < 1)).float().mean()
    return f"{rates.mean():.2f}", f"{partial:.2f}"


if __name__ == "__main__":
    main()
