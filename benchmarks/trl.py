"""TRL's GRPOTrainer on the built-in task, with selected prompts and without.

    python -m benchmarks.trl --seeds 0,1,2 --steps 30 --out runs/trl
    python -m benchmarks.trl --methods none,dps --trl /path/to/venv/bin/python learner.lr=1e-4

Every run is a process of its own, one after the other. `none` is TRL alone, which goes through a shuffled data set. Of each
run: the effective ratio (share of groups whose rewards differ, as TRL logs it), the accuracy on test prompts after the last
step, by TRL's own evaluation, and the seconds that selection adds to a step, as the plug-in measures them. The folder of
`--out` has the runs that are done, which the same command does not repeat, and the figure of `docs/integrations.md`.
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
from pipelines.command.command_line import seeds_option
from pipelines.comparison.drawing import (
    SMOOTH,
    STYLES,
    Style,
    legend,
    line,
    matplotlib_set_up,
    panels_of,
    save,
)
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
    parser.add_argument(
        "--seeds",
        type=seeds_option,
        default=[0],
        metavar="A,B",
        help="such as 0,1,2 (0)",
    )
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--methods", default="none,dps,dps_pooled")
    parser.add_argument(
        "--trl", type=path_option, default=Path(sys.executable), metavar="PYTHON", help="(this one)"
    )
    parser.add_argument(
        "--out", type=path_option, default=Path("runs/trl"), metavar="FOLDER", help="(runs/trl)"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help=f"settings, after {' '.join(_SETTINGS)}"
    )
    options = parser.parse_args(arguments)
    runs: dict[str, list[Run]] = {method: [] for method in options.methods.split(",")}
    done = options.out / "runs.jsonl"
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        for seed, method in itertools.product(options.seeds, runs):
            what = {
                "method": method,
                "seed": seed,
                "steps": options.steps,
                "overrides": options.overrides,
            }
            run = _found(done, what)
            if run is None:
                with tempfile.TemporaryDirectory() as folder:
                    task = _task(method, seed, options.steps, options.overrides)
                    run = _run(run_trl(task | {"folder": folder}, options.trl))
                with done.open("a") as lines:
                    print(json.dumps({**what, "run": run._asdict()}), file=lines)
            runs[method].append(run)
            print(f"{method}, seed {seed}: test accuracy {run.accuracy:.3f}", flush=True)
    except (DPSError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(_table(runs))
    _draw(runs, options.out)
    return 0


def _found(done: Path, what: Mapping[str, Any]) -> Run | None:
    """The run that was done with these settings; None if there is none."""
    lines = done.read_text().splitlines() if done.exists() else []
    for known in map(json.loads, lines):
        if {key: known[key] for key in what} == what:
            return Run(**known["run"])
    return None


def _draw(runs: Mapping[str, Sequence[Run]], folder: Path) -> None:
    """Saves the effective ratio over steps: means over seeds and `SMOOTH` steps, and the range of the seeds."""
    styles = {
        method: Style("GRPOTrainer", "#8a939b")
        if method == "none"
        else STYLES.get(method, Style(method, "#4477aa"))
        for method in runs
    }
    with matplotlib_set_up():
        figure, ((axes,),) = panels_of(1, 1, (6.4, 3.4))
        for method, found in runs.items():
            ratios = np.array([_smoothed(run.ratios) for run in found])
            steps = np.arange(ratios.shape[1]) + SMOOTH
            axes.plot(steps, ratios.mean(0), **line(styles[method]))
            axes.fill_between(
                steps, ratios.min(0), ratios.max(0), color=styles[method].colour, alpha=0.15, lw=0
            )
        axes.set(xlabel="training step", ylabel="effective ratio, last five steps", ylim=(0, 1))
        legend(figure, styles)
        save(figure, "trl", "TRL", "", folder)


def _smoothed(ratios: Sequence[float]) -> np.ndarray:
    """Means of each step and those before it; of all steps where there are fewer."""
    window = min(SMOOTH, len(ratios))
    return np.convolve(ratios, np.ones(window) / window, "valid")


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
    """Means over seeds with their standard deviations, in Markdown."""
    lines = [
        "| method | effective ratio | means of five steps | test accuracy | tokens a step | seconds a step | added by selection |",
        "|---|--:|---|--:|--:|--:|--:|",
    ]
    for method, found in runs.items():
        ratios = np.array([run.ratios for run in found])
        parts = np.array_split(ratios.mean(0), max(ratios.shape[1] // 5, 1))
        seconds, added, tokens = np.mean(
            [(run.seconds, run.added, run.tokens) for run in found], axis=0
        )
        lines.append(
            f"| {method} | {_spread(ratios.mean(1), 2)} | {' '.join(f'{part.mean():.2f}' for part in parts)} | "
            f"{_spread([run.accuracy for run in found], 3)} | {tokens:,.0f} | {seconds:.2f} | "
            f"{added:.3f} ({added / seconds:.1%}) |"
        )
    return "\n".join(lines)


def _spread(values: Sequence[float], digits: int) -> str:
    """The mean, and the deviation between seeds where there are several."""
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
