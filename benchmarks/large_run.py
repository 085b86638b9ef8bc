"""A whole run over a pool of a million prompts with texts, whose driver is killed, and which goes on with fewer shards.

    python -m benchmarks.large_run --folder bench/startup
    python -m benchmarks.large_run --folder bench/startup --prompts 100000 --steps 4

Real engine, learner and verifier: SmolLM2-135M on the CPU, 4 belief shards, 8 prompts x 4 responses a step. Responses
are right when they hold an "e", so that about half of the groups teach. One run is left alone. The other gets SIGKILL in
the middle and is started again with 2 shards. Prints where the time went, and exits with 1 unless the beliefs of both
runs are equal to the bit.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from benchmarks.startup import model_folder
from benchmarks.startup_data import pool_files
from dps_ray.durable import Storage, newest_valid, read_shard, reshard
from dps_ray.errors import DataError, ModelError
from dps_ray.paths import path_option
from pipelines.monitoring.metrics import IN_STEP
from pipelines.monitoring.run_log import read_metrics

LIMIT = 81  # tokens; two prompts in three are longer
_REWARD = '''"""Right if the response holds an "e"."""


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return float("e" in solution_str)
'''
_LOOK = 0.2  # seconds between looks at a run's metrics


class Ended(NamedTuple):
    """A run that has ended.

    first:    seconds from each start of the driver to its first step
    steps:    metrics of each step
    """

    folder: Path
    first: list[float]
    steps: list[dict[str, float]]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.large_run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--folder", type=path_option, required=True, help="for prompts and runs")
    parser.add_argument("--model", type=path_option, help="Hugging Face folder (SmolLM2-135M)")
    parser.add_argument("--prompts", type=int, default=10**6, metavar="N")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args(arguments)
    console = Console()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    try:
        model = model_folder(folder, options.model)
    except ModelError as error:
        parser.error(str(error))
    files = pool_files(folder, options.prompts, console.print)
    reward = folder / "holds_an_e.py"
    reward.write_text(_REWARD)
    settings = [
        "method=dps_pooled",
        f"model.path={model}",
        f"data.train=[{','.join(map(str, files.train))}]",
        f"data.reward={reward}:compute_score",
        f"data.max_prompt_length={LIMIT}",
        "selector.cluster_column=extra_info.level",
        f"loop.steps={options.steps}",
        "loop.batch_size=8",
        "rollout.group_size=4",
        "rollout.max_response_length=8",
        "rollout.threads=2",
        "learner.threads=2",
        "learner.lr=1e-5",
        "learner.max_tokens_per_micro_batch=1024",
        "probe.every=0",
        f"checkpoint.every={max(1, options.steps // 4)}",
        "checkpoint.keep=2",
    ]
    cache = folder / "large_run_cache"
    shutil.rmtree(cache, ignore_errors=True)
    alone = _run(folder / "undisturbed", settings, [4], options.steps, cache)
    killed = _run(folder / "killed", settings, [4, 2], options.steps, cache)
    for name, run in (("undisturbed", alone), ("killed and resumed", killed)):
        _tell(console, name, run)
    differing = _differing(alone.folder, killed.folder)
    console.print(
        f"beliefs are {'equal to the bit' if not differing else f'DIFFERENT: {differing}'}"
    )
    return 1 if differing else 0


def _run(
    folder: Path, settings: Sequence[str], shards: Sequence[int], steps: int, cache: Path
) -> Ended:
    """Starts a run with each of these numbers of shards. All drivers but the last are killed half-way."""
    shutil.rmtree(folder, ignore_errors=True)
    first = []
    for index, count in enumerate(shards):
        program = [sys.executable, "-m", "pipelines.grpo_dps", f"folder={folder}", *settings]
        began, done = time.monotonic(), _steps_done(folder)
        with (folder.parent / f"{folder.name}.log").open("ab") as log:
            driver = subprocess.Popen(
                [*program, f"resources.beliefs.shards={count}"],
                env={**os.environ, "XDG_CACHE_HOME": str(cache)},
                stdout=log,
                stderr=log,
            )
        _wait(driver, partial(_moved_on, folder, done), log.name)
        first.append(time.monotonic() - began)
        if index < len(shards) - 1:
            _wait(driver, lambda: _steps_done(folder) > steps // 2, log.name)
            driver.send_signal(signal.SIGKILL)
        elif driver.wait() != 0:
            raise RuntimeError(f"the run ended with {driver.returncode}; see {log.name}")
        driver.wait()
    found = [m for m in read_metrics(folder) if "training/step" in m]
    return Ended(folder, first, found)


def _wait(driver: "subprocess.Popen[bytes]", done: Callable[[], bool], log: str) -> None:
    while not done():
        if driver.poll() is not None:
            raise RuntimeError(f"the run ended with {driver.returncode}; see {log}")
        time.sleep(_LOOK)


def _moved_on(folder: Path, before: int) -> bool:
    return _steps_done(folder) != before


def _steps_done(folder: Path) -> int:
    try:
        return max((int(m.get("training/step", 0)) for m in read_metrics(folder)), default=0)
    except DataError:
        return 0


def _tell(console: Console, name: str, run: Ended) -> None:
    last = run.steps[-1]
    seconds = " and ".join(f"{each:.0f} s" for each in run.first)
    console.print(
        f"{name}: {len(run.steps)} steps; {seconds} from the command to the next step; "
        f"{last['data/prompts_set_aside']:.0f} prompts were too long; "
        f"{last['data/read_ahead']:.0%} of the prompts were read ahead"
    )
    parts = {
        part: np.median(
            [step[f"timing_s/{part}"] for step in run.steps if f"timing_s/{part}" in step]
        )
        for part in IN_STEP
        if any(f"timing_s/{part}" in step for step in run.steps)
    }
    shown = ", ".join(f"{part} {value:.2f}" for part, value in parts.items())
    console.print(f"  median seconds of a step: {shown}")


def _differing(one: Path, other: Path) -> list[str]:
    """The names of what differs between the beliefs of two runs."""
    ours, theirs = (_beliefs(folder) for folder in (one, other))
    if ours.keys() != theirs.keys():
        return sorted(ours.keys() ^ theirs.keys())
    return [name for name in ours if not np.array_equal(ours[name], theirs[name])]


def _beliefs(folder: Path) -> dict[str, Any]:
    storage = Storage.at(folder)
    manifest = newest_valid(storage, print)
    assert manifest is not None
    shards = range(manifest.belief_shards)
    snapshots = [read_shard(storage, manifest, shard, len(shards)) for shard in shards]
    return reshard(snapshots, 1)[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
