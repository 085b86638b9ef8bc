"""The loop in turns against one step ahead, on the built-in task:  python -m benchmarks.loop

Runs the main job with loop.max_staleness=0 and 1 by turns, --repeats times each, with the same settings, seed and
number of steps. Where there are two cores or more the engines are kept on one half of them and the learner on the other,
so that neither waits for the other's.

The limit of the speed-up, for the phases that were measured, is (a + b) / max(a, b): a the seconds of a step in
turns in which engines work, b those in which the learner does. What cannot overlap (selecting, observing, publishing)
is part of neither, and lowers what is reached.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.spread import spread
from benchmarks.terms import BATCHES_OF_64
from dps_ray.errors import DPSError, EngineError
from dps_ray.paths import path_option
from pipelines.monitoring.held_out import held_out_accuracy
from pipelines.monitoring.run_log import read_metrics

_FIRST_STEPS = 2  # left out: the engines still allocate and warm up
MODES = {0: "in turns", 1: "one step ahead"}


class Measured(NamedTuple):
    """One run. Medians over its steps, but for `accuracy`, which is the last."""

    seconds: float  # of a step
    engines: float  # in which engines generate, or verifiers score what is left
    learner: float  # in which the learner trains
    busy_engines: float
    busy_learner: float
    accuracy: float


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loop",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs of each kind")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--out", type=path_option, help="keep the runs here")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="for all runs, such as loop.batch_size=32 learner.epochs=2",
    )
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as aside:
            out = options.out or Path(aside)
            found: dict[int, list[Measured]] = {mode: [] for mode in MODES}
            for repeat in range(options.repeats):
                for mode in MODES:
                    folder = out / f"{'ahead' if mode else 'turns'}-{repeat}"
                    _run(folder, mode, options.steps, options.overrides)
                    found[mode].append(_measured(folder))
                    print(f"{folder.name}: {found[mode][-1].seconds:.2f} s a step", flush=True)
    except DPSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _print(found)
    return 0


def _run(folder: Path, mode: int, steps: int, overrides: Sequence[str]) -> None:
    command = [
        *(sys.executable, "-m", "pipelines.grpo_dps", f"folder={folder}", f"loop.steps={steps}"),
        *("rollout.threads=1", "learner.threads=1", "probe.every=0", "eval.max_prompts=200"),
        *BATCHES_OF_64,
        *overrides,
        f"loop.max_staleness={mode}",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as job:
        assert job.stdout is not None
        said = []
        for line in job.stdout:
            said.append(line.rstrip())
            if line.startswith("step"):
                _pin(job.pid)
    if job.returncode:
        raise EngineError(f"{' '.join(command)} failed: {said[-1] if said else 'without a word'}")


def _pin(driver: int) -> None:
    """Engines to one half of the cores, the learner to the other; the rest go where there is room."""
    cores = sorted(os.sched_getaffinity(0))
    halves = {
        "ray::RolloutEngine": cores[: len(cores) // 2],
        "ray::LearnerRank": cores[len(cores) // 2 :],
    }
    for process in psutil.Process(driver).children(recursive=True):
        try:
            title = " ".join(process.cmdline())
            for name, half in halves.items():
                if half and title.startswith(name) and process.cpu_affinity() != half:
                    for thread in process.threads():
                        os.sched_setaffinity(thread.id, half)
        except (psutil.Error, ProcessLookupError):
            continue  # it ended meanwhile


def _measured(folder: Path) -> Measured:
    metrics = read_metrics(folder)
    steps = [m for m in metrics if "timing_s/step" in m][_FIRST_STEPS:]
    accuracy = [found.mean for m in metrics if (found := held_out_accuracy(m))]

    def median(*names: str) -> float:
        return float(np.median([sum(m.get(name, 0.0) for name in names) for m in steps]))

    return Measured(
        seconds=median("timing_s/step"),
        engines=median("timing_s/generate", "timing_s/score"),
        learner=median("timing_s/train"),
        busy_engines=median("busy/rollout"),
        busy_learner=median("busy/learner"),
        accuracy=accuracy[-1],
    )


def _print(found: dict[int, list[Measured]]) -> None:
    table = Table(title="medians over runs (lowest to highest)")
    for column in ("", "steps a minute", "engines busy", "learner busy", "accuracy"):
        table.add_column(column, justify="left" if not column else "right")
    for mode, runs in found.items():
        table.add_row(
            MODES[mode],
            spread([60 / run.seconds for run in runs], "{:.1f}"),
            spread([run.busy_engines for run in runs], "{:.0%}"),
            spread([run.busy_learner for run in runs], "{:.0%}"),
            spread([run.accuracy for run in runs], "{:.1%}"),
        )
    turns, ahead = found.values()
    speedup = [a.seconds / b.seconds for a, b in zip(turns, ahead, strict=True)]
    limit = [(run.engines + run.learner) / max(run.engines, run.learner) for run in turns]
    console = Console()
    console.print(table)
    console.print(
        f"In turns, engines take {spread([r.engines for r in turns], '{:.2f}')} s of a step and the learner "
        f"{spread([r.learner for r in turns], '{:.2f}')} s, so the limit of the speed-up is "
        f"{spread(limit, '{:.2f}')}. Reached: {spread(speedup, '{:.2f}')}, "
        f"{spread([s / most for s, most in zip(speedup, limit, strict=True)], '{:.0%}')} of it."
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
