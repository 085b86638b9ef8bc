"""What a `PromptSampler` costs beside the belief store in it.

    python -m benchmarks.sampler
    python -m benchmarks.sampler --keys 10000000

Each row is a process of its own. Keys are strings, in 100 kinds. Times are of the processor; the step is the median of 20
with 256 prompts and 8 responses to each.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from dps_ray import PromptSampler
from dps_ray.sampler.pool_selector import PoolSelector

METHODS = ("dps", "dps_pooled", "uniform")
BATCH, GROUP, KINDS, STEPS = 256, 8, 100, 20


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="What a PromptSampler costs.")
    parser.add_argument("--keys", type=int, default=10**6)
    parser.add_argument("--one", choices=METHODS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measured(given.one, given.keys)))
        return
    print(f"{given.keys:,} keys\n")
    for number, method in enumerate(METHODS):
        command = [sys.executable, "-m", "benchmarks.sampler", "--one", method, "--keys"]
        said = subprocess.run(
            [*command, str(given.keys)], check=True, stdout=subprocess.PIPE
        ).stdout
        row = {"method": method, **json.loads(said)}
        if not number:
            print(f"| {' | '.join(row)} |\n|---{'|--:' * (len(row) - 1)}|")
        print(f"| {' | '.join(str(value) for value in row.values())} |", flush=True)


def measured(method: str, count: int) -> dict[str, float]:
    """Returns the columns of one row."""
    keys = [f"problem {number}" for number in range(count)]
    kinds = [number % KINDS for number in range(count)]
    before = _memory()
    sampler, made = _timed(lambda: PromptSampler(keys, GROUP, method, kinds))
    memory = _memory() - before
    _, store = _timed(lambda: PoolSelector(sampler._recipe, sampler._selector.pool))
    rng = np.random.default_rng(0)
    takes, reports = [], []
    for _ in range(STEPS):
        taken, took = _timed(partial(sampler.take, BATCH))
        _, reported = _timed(partial(sampler.report, taken, rng.integers(0, 2, (BATCH, GROUP))))
        takes.append(took)
        reports.append(reported)
    state, saved = _timed(sampler.state_dict)
    _, loaded = _timed(lambda: sampler.load_state_dict(state))
    return {
        "made (s)": round(made, 2),
        "its store alone (s)": round(store, 2),
        "bytes a key": round(memory / count),
        f"take({BATCH}) (ms)": round(1e3 * float(np.median(takes)), 1),
        f"report({BATCH}) (ms)": round(1e3 * float(np.median(reports)), 1),
        "state (MB)": round(sum(np.asarray(value).nbytes for value in state.values()) / 1e6, 1),
        "state_dict (s)": round(saved, 2),
        "load_state_dict (s)": round(loaded, 2),
    }


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    found = call()
    return found, time.process_time() - start


def _memory() -> int:
    """Bytes that the process has held at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
