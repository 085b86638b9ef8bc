"""Compares selection methods in real training, under equal settings.

    python -m pipelines.compare --out runs/comparison --config arithmetic --seeds 0,1,2 loop.steps=100
    python -m pipelines.compare --methods uniform,ds_10,dps --lr ds_10=3e-5 --steps dps=120
    python -m pipelines.compare --methods dps --entry dps_d9:method=dps,selector.decay=0.9

Runs are executed one after the other. After a stop, the same command continues. `--report` only writes the report, from
the runs that are finished. The report is `report/comparison.html` in the output folder, with its figures and numbers
beside it. The output folder also holds the runs.
"""

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console

from dps_ray.config.files import config_file
from dps_ray.errors import ConfigError, DPSError
from dps_ray.paths import path_option
from pipelines.command.command_line import seeds_option
from pipelines.command.exits import refused
from pipelines.command.preflight import check_folder
from pipelines.comparison.page import build
from pipelines.comparison.plan import ENTRIES, FAIR, Run, entry, pairs, plan
from pipelines.comparison.runner import carry_out, is_finished

# One of each kind, so that three seeds are done in hours.
METHODS = ["uniform", "ds_published", "ds_10_k4", "dps", "mopps", "dps_pooled", "dps_pooled_refill"]


def main(arguments: Sequence[str]) -> int:
    """Runs the program and returns its exit code. 0: all runs are finished. 1: some are missing, and the report covers
    the others. 2: the input is wrong. 130: stopped."""
    options = _parse(arguments)
    console = Console()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return compare(
            options, shlex.join(["python", "-m", "pipelines.compare", *arguments]), console
        )
    except (DPSError, OSError) as error:
        return refused(error)
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return 130


def compare(options: argparse.Namespace, command: str, console: Console) -> int:
    """Carries out the runs, writes the report, and returns the exit code. `command` is shown in the report."""
    check_folder("--out ", options.out)
    file = config_file(options.config)
    entries = dict(map(entry, options.entry))
    runs = plan(
        [*options.methods, *entries],
        options.seeds,
        options.out,
        file,
        rates=pairs("--lr", options.lr),
        steps=pairs("--steps", options.steps),
        entries=entries,
        overrides=options.overrides,
    )

    def command_of(run: Run) -> list[str]:
        program = [sys.executable, "-m", "pipelines.grpo_dps"]
        return [*program, "--config", str(file), *run.overrides]

    failures = [] if options.report else carry_out(runs, command_of, console)
    finished = [run for run in runs if is_finished(run)]
    missing = {run.name: "not run to its end" for run in runs if run not in finished}
    missing |= {failure.run.name: failure.why for failure in failures}
    if not finished:
        raise ConfigError(f"no run in {options.out} is finished: there is nothing to report")
    console.print(f"report: {build(finished, missing, options.out / 'report', command)}")
    return 1 if missing else 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out",
        type=path_option,
        default=Path("runs/comparison"),
        metavar="FOLDER",
        help="output folder for the runs and the report (runs/comparison)",
    )
    parser.add_argument(
        "--config",
        default="arithmetic",
        metavar="FILE",
        help="YAML file, or the name of a file in dps_ray/configs (arithmetic)",
    )
    parser.add_argument(
        "--methods",
        type=lambda text: [name for name in text.split(",") if name],
        default=METHODS,
        metavar="A,B",
        help=f"methods to compare, none if empty, from {', '.join(ENTRIES)} (default: {','.join(METHODS)}, one of each kind)",
    )
    parser.add_argument(
        "--seeds",
        type=seeds_option,
        default=[0, 1, 2],
        metavar="A,B",
        help="seeds; each method is run once with each (0,1,2)",
    )
    parser.add_argument(
        "--lr",
        action="append",
        default=[],
        metavar="METHOD=RATE",
        help="learning rate of one method, in place of the common one; may be given several times",
    )
    parser.add_argument(
        "--steps",
        action="append",
        default=[],
        metavar="METHOD=N",
        help="steps of one method, in place of loop.steps, so that methods come to the same rollouts; may be given several "
        "times",
    )
    parser.add_argument(
        "--entry",
        action="append",
        default=[],
        metavar="NAME:KEY=VALUE,...",
        help="another method to compare, defined by its settings; may be given several times",
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="start no runs; write the report of the runs that are finished",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help=f"settings of all runs, which override the common ones: {' '.join(FAIR)}",
    )
    return parser.parse_args(arguments)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
