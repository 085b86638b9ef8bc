"""TRL's GRPOTrainer on the built-in task, with selected prompts and without.

    python -m benchmarks.trl --seeds 0,1,2 --steps 30
    python -m benchmarks.trl --methods none,dps --trl /path/to/venv/bin/python learner.lr=1e-4

Every run is a process of its own, one after the other. `none` is TRL alone, which goes through a shuffled data set. Of each
run: the effective ratio (share of groups whose rewards differ, as TRL logs it), the accuracy on test prompts after the last
step, by TRL's own evaluation, and the seconds that selection adds to a step, as the plug-in measures them.
"""

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.peer import run_trl, task_for_trl
from dps_ray.config import settings
from dps_ray.config.files import config_file
from dps_ray.errors import DPSError
from dps_ray.paths import path_option
from pipelines.data import builtin
from pipelines.data.start_policy import ensure_start_policy

# 16 prompts a step, as few as show a difference in 30 steps on a CPU.
_SETTINGS = (
    "loop.batch_size=16",
    "rollout.group_size=8",
    "learner.minibatches=1",
    "learner.epochs=1",
    "learner.lr=2e-4",
    "eval.samples=2",
)


class Run(NamedTuple):
    """What came of one run.

    ratios:   effective ratio of each step
    accuracy: on test prompts, in the end
    seconds:  median of a step
    added:    median of what selection adds to it, in seconds
    tokens:   mean of what a step generates
    """

    ratios: list[float]
    accuracy: float
    seconds: float
    added: float
    tokens: float


def main(arguments: Sequence[str]) -> int:
    """Prints each run, and a table of their means."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trl",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", default="0", help="such as 0,1,2")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--methods", default="none,dps,dps_pooled")
    parser.add_argument(
        "--trl", type=path_option, default=Path(sys.executable), metavar="PYTHON", help="(this one)"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help=f"settings, after {' '.join(_SETTINGS)}"
    )
    options = parser.parse_args(arguments)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    runs: dict[str, list[Run]] = {method: [] for method in options.methods.split(",")}
    try:
        with tempfile.TemporaryDirectory() as folder:
            for seed, method in itertools.product(seeds, runs):
                task = _task(method, seed, options.steps, options.overrides)
                run = _run(run_trl(task | {"folder": folder}, options.trl))
                runs[method].append(run)
                print(json.dumps({"method": method, "seed": seed} | run._asdict()), flush=True)
    except DPSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(_table(runs))
    return 0


def _task(method: str, seed: int, steps: int, overrides: Sequence[str]) -> dict[str, Any]:
    given = [*_SETTINGS, f"loop.steps={steps}", f"seed={seed}", *overrides]
    config = settings.load(config_file("arithmetic"), given)
    _, test = builtin.ensure_arithmetic(builtin.cache())
    return {
        **task_for_trl(config, ensure_start_policy(builtin.cache(), seed=0)),
        "test": str(test),
        "dps": None if method == "none" else {"method": method, "kinds": "level"},
    }


def _run(found: Mapping[str, Any]) -> Run:
    logged = found["logged"]
    return Run(
        [round(1 - step["frac_reward_zero_std"], 3) for step in logged],
        found["accuracy"],
        float(np.median(found["seconds"])),
        float(np.median([step.get("dps/seconds", 0.0) for step in logged])),
        float(np.mean(found["tokens"])),
    )


def _table(runs: Mapping[str, Sequence[Run]]) -> str:
    """Means over seeds, in Markdown."""
    lines = [
        "| method | effective ratio | of the last ten steps | test accuracy | tokens a step | seconds a step | added by selection |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for method, found in runs.items():
        ratios = np.array([run.ratios for run in found])
        accuracies = np.array([run.accuracy for run in found])
        seconds, added, tokens = np.mean(
            [(run.seconds, run.added, run.tokens) for run in found], axis=0
        )
        each = ", ".join(f"{accuracy:.3f}" for accuracy in accuracies)
        lines.append(
            f"| {method} | {ratios.mean():.2f} | {ratios[:, -10:].mean():.2f} | {accuracies.mean():.3f} ({each}) | "
            f"{tokens:,.0f} | {seconds:.2f} | {added:.4f} ({added / seconds:.2%}) |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
