"""Where the time of a training step goes, from a run's own measurements.

    make run
    python -m benchmarks.step runs/<the run>

Engine and learner are `generate` and `train`; everything else is the system's own share.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from dps_ray.errors import DataError, DPSError
from dps_ray.paths import path_option
from pipelines.monitoring.metrics import IN_STEP
from pipelines.monitoring.run_log import read_metrics

ENGINES = ("generate", "train")
_FIRST_STEPS = 2  # left out: the engines still allocate and warm up


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__)
    parser.add_argument("run", type=path_option, help="a run's folder")
    try:
        print_profile(parser.parse_args(arguments).run)
    except DPSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def print_profile(run: Path) -> None:
    """
    Raises:
        DataError: the folder holds no run, or one of too few steps.
    """
    steps = [m for m in read_metrics(run) if "timing_s/step" in m][_FIRST_STEPS:]
    if not steps:
        raise DataError(
            f"{run} holds no run of more than {_FIRST_STEPS} steps; name a run's folder"
        )
    total = np.array([m["timing_s/step"] for m in steps])
    seconds = {p: np.array([m.get(f"timing_s/{p}", 0.0) for m in steps]) for p in IN_STEP}
    seconds["the rest"] = total - sum(seconds.values())
    own = 1 - sum(seconds[phase] for phase in ENGINES) / total
    table = Table(title=f"{len(steps)} steps of {run.name}")
    for column in ("phase", "median ms", "10% to 90%", "share of the time"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    for phase, values in seconds.items():
        low, middle, high = np.quantile(values, [0.1, 0.5, 0.9]) * 1000
        share = values.sum() / total.sum()
        table.add_row(phase, f"{middle:,.1f}", f"{low:,.1f} to {high:,.1f}", f"{share:.1%}")
    low, middle, high = np.quantile(total, [0.1, 0.5, 0.9]) * 1000
    table.add_row("step", f"{middle:,.1f}", f"{low:,.1f} to {high:,.1f}", "", style="bold")
    Console().print(table)
    low, middle, high = np.quantile(own, [0.1, 0.5, 0.9])
    Console().print(
        f"The system's own share, all but {' and '.join(ENGINES)}: "
        f"median {middle:.1%} of a step (10% to 90% of steps: {low:.1%} to {high:.1%})."
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
