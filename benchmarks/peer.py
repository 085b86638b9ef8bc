"""The same training step here and in TRL's GRPOTrainer:  python -m benchmarks.peer --trl /path/to/venv/bin/python

`--trl` names a Python that has trl (with accelerate and datasets) and the same torch and transformers as this one.
Model, prompts, responses to each, response length, optimizer, minibatches, clipping and cores are the same; both
select uniformly, in float32. On a CPU TRL generates with transformers, since its vLLM needs a GPU. Both take turns,
--repeats times. Tokens are those generated; a step is from prompts to new weights in the engine. One difference is
kept, as it is how either works: groups whose rewards are all equal are not trained on here, and are in TRL.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.spread import spread
from benchmarks.terms import BATCHES_OF_64
from dps_ray.config import Config, settings
from dps_ray.config.files import config_file
from dps_ray.errors import DPSError, EngineError
from dps_ray.paths import path_option
from pipelines.data import builtin
from pipelines.data.start_policy import ensure_start_policy
from pipelines.monitoring.run_log import read_metrics

_FIRST_STEPS = 2  # left out: both still allocate and warm up


class Measured(NamedTuple):
    """Medians over the steps of a run."""

    seconds: float
    tokens_per_second: float


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--trl", type=path_option, required=True, metavar="PYTHON")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="of this project's settings"
    )
    options = parser.parse_args(arguments)
    ours, theirs = [], []
    try:
        with tempfile.TemporaryDirectory() as aside:
            for repeat in range(options.repeats):
                config = settings.load(
                    config_file("arithmetic"),
                    [
                        *(
                            f"folder={aside}/{repeat}",
                            "method=uniform",
                            f"loop.steps={options.steps}",
                        ),
                        *BATCHES_OF_64,
                        *(
                            "probe.every=0",
                            "eval.max_prompts=1",
                            "eval.samples=1",
                            "checkpoint.every=0",
                        ),
                        *options.overrides,
                    ],
                )
                ours.append(_ours(config))
                theirs.append(_trl(config, options.trl))
                print(
                    f"here {ours[-1].seconds:.2f} s a step, TRL {theirs[-1].seconds:.2f} s",
                    flush=True,
                )
    except DPSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _print(ours, theirs)
    return 0


def _ours(config: Config) -> Measured:
    config.folder.mkdir(parents=True)
    file = config.folder.with_suffix(".yaml")
    file.write_text(settings.dump(config))
    finish([sys.executable, "-m", "pipelines.grpo_dps", "--config", str(file)])
    steps = [m for m in read_metrics(config.folder) if "timing_s/step" in m]
    return _measured(
        [m["timing_s/step"] for m in steps],
        [m["perf/throughput"] * m["timing_s/step"] for m in steps],
    )


def _trl(config: Config, python: Path) -> Measured:
    """Runs `peer_trl.py` under the other Python. What it is told is all that it knows of this project."""
    task = task_for_trl(config, ensure_start_policy(builtin.cache(), seed=0))
    found = run_trl(task, python)
    return _measured(found["seconds"], found["tokens"])


def run_trl(task: Mapping[str, Any], python: Path) -> dict[str, Any]:
    """Runs `peer_trl.py`, and returns what it found."""
    said = finish(trl_command(task, python))
    found: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
    return found


def trl_command(task: Mapping[str, Any], python: Path) -> list[str]:
    """The command that runs `peer_trl.py`. `-P` keeps the script's folder from the path, as it has a `trl.py`."""
    script = Path(__file__).with_name("peer_trl.py")
    return [str(python), "-P", str(script), json.dumps(task)]


def task_for_trl(config: Config, model: Path) -> dict[str, Any]:
    """What `peer_trl.py` is to do, on the prompts of the built-in task."""
    train, _ = builtin.ensure_arithmetic(builtin.cache())
    return {
        "model": str(model),
        "prompts": str(train),
        "steps": config.loop.steps,
        "batch_size": config.loop.batch_size,
        "group_size": config.rollout.group_size,
        "max_response_length": config.rollout.max_response_length,
        "minibatches": config.learner.minibatches,
        "threads": config.learner.threads,
        "lr": config.learner.lr,
        "betas": config.learner.betas,
        "clip_norm": config.learner.clip_norm,
        "clip_low": config.objective.clip_low,
        "clip_high": config.objective.clip_high,
        "folder": str(config.folder / "trl"),
        "on_gpu": False,
        "seed": config.seed,
        "dps": None,
        "test": None,
        "test_samples": config.eval.samples,
    }


def finish(command: Sequence[str]) -> str:
    """Runs a command that finds this checkout's packages, and returns what it printed."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise EngineError(f"{command[0]} {command[1]} failed: {' '.join(last)}")
    return done.stdout


def _measured(seconds: Sequence[float], tokens: Sequence[float]) -> Measured:
    time, count = np.array(seconds[_FIRST_STEPS:]), np.array(tokens[_FIRST_STEPS:])
    return Measured(float(np.median(time)), float(np.median(count / time)))


def _print(ours: Sequence[Measured], theirs: Sequence[Measured]) -> None:
    table = Table(title="medians over runs (lowest to highest)")
    for column in ("", "seconds a step", "tokens a second"):
        table.add_column(column, justify="left" if not column else "right")
    for name, runs in (("here", ours), ("TRL", theirs)):
        table.add_row(
            name,
            spread([run.seconds for run in runs], "{:.2f}"),
            spread([run.tokens_per_second for run in runs], "{:,.0f}"),
        )
    ratios = [a.tokens_per_second / b.tokens_per_second for a, b in zip(ours, theirs, strict=True)]
    console = Console()
    console.print(table)
    console.print(f"Tokens a second, here against TRL: {spread(ratios, '{:.2f}')}.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
