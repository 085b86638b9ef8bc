"""Runs every selection method on the same simulated learner.

    python -m pipelines.simulate                                     pools of 2,000 to 1,000,000 prompts
    python -m pipelines.simulate --prompts 12000 --methods uniform dps oracle --seeds 5 --json figures.json
    python -m pipelines.simulate --ablations                         DPS's settings, 12,000 prompts, 5 seeds

Prints a table for each pool, with mean and standard error over seeds. docs/simulation.md describes the simulated
learner and how closely it matches real training.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from dps_ray.errors import ConfigError, DPSError
from dps_ray.paths import path_option
from pipelines.command.exits import refused
from pipelines.command.preflight import check_file
from pipelines.simulation.entries import ABLATIONS, ENTRIES, Entry
from pipelines.simulation.model import REAL, Outcome, simulate

PROMPTS = (2_000, 12_000, 200_000, 1_000_000)
RATE = 0.045  # takes uniform selection of 256 prompts from 0.23 to 0.60 in 120 steps, so methods can be better or worse
EARLY = 30  # first steps, which the effective ratio leaves out because methods know little then


def main(arguments: Sequence[str]) -> int:
    """Runs the program. Returns its exit code: 0 if finished, 2 if the input is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.simulate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--prompts",
        type=int,
        nargs="+",
        metavar="N",
        help=f"numbers of prompts in the pool (default: {' '.join(map(str, PROMPTS))}; 12000 with --ablations)",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        default=list(ENTRIES),
        metavar="METHOD",
        help=f"methods to run (default: all): {', '.join(ENTRIES)}",
    )
    parser.add_argument(
        "--ablations", action="store_true", help="compare settings of DPS instead of methods"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help="number of runs of each method, with seeds 0 to N-1 (default: 2; 5 with --ablations)",
    )
    parser.add_argument("--steps", type=int, default=120, help="training steps of a run (120)")
    parser.add_argument("--batch-size", type=int, default=256, help="prompts per step (256)")
    parser.add_argument("--group-size", type=int, default=8, help="responses per prompt (8)")
    parser.add_argument(
        "--rate",
        type=float,
        default=RATE,
        help=f"skill gained per step, see Constants in pipelines/simulation/model.py ({RATE})",
    )
    parser.add_argument(
        "--hard", type=float, default=0.0, help="fraction of prompts that are never solved (0)"
    )
    parser.add_argument(
        "--easy", type=float, default=0.0, help="fraction of prompts that are always solved (0)"
    )
    parser.add_argument(
        "--json", type=path_option, metavar="FILE", help="file to write the results to"
    )
    options = parser.parse_args(arguments)
    options.seeds = options.seeds or (5 if options.ablations else 2)
    try:
        entries = ABLATIONS if options.ablations else _chosen(options.methods)
        sizes = options.prompts or ((12_000,) if options.ablations else PROMPTS)
        _check(options, sizes)
        if options.json:
            check_file("--json ", options.json)
        figures = [row for size in sizes for row in compare(entries, size, options, Console())]
    except (DPSError, OSError) as error:
        return refused(error)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(figures, indent=1))
    return 0


def _chosen(names: Sequence[str]) -> dict[str, Entry]:
    for name in names:
        if name not in ENTRIES:
            raise ConfigError(f"--methods {name}: write one of {', '.join(ENTRIES)}")
    return {name: ENTRIES[name] for name in names}


def _check(options: argparse.Namespace, sizes: Sequence[int]) -> None:
    for name, least in (("seeds", 1), ("steps", EARLY + 1), ("batch_size", 1), ("group_size", 2)):
        if getattr(options, name) < least:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} {getattr(options, name)}: write {least} or more")
    if min(sizes) < options.batch_size:
        raise ConfigError(
            f"--prompts {min(sizes)}: a batch has {options.batch_size} prompts; give at least as many, or a smaller "
            "--batch-size"
        )
    if not options.rate > 0:
        raise ConfigError(f"--rate {options.rate}: write a positive number")
    if not (options.hard >= 0 and options.easy >= 0 and options.hard + options.easy <= 1):
        raise ConfigError(
            f"--hard {options.hard} --easy {options.easy}: write two shares >= 0 with a sum of at most 1"
        )


def compare(
    entries: Mapping[str, Entry], prompts: int, options: argparse.Namespace, console: Console
) -> list[dict[str, Any]]:
    """Runs each entry with every seed on a pool of this size, prints the table, and returns the results."""
    figures: list[dict[str, Any]] = []
    table = Table(
        "method",
        "effective",
        "rolled out",
        "accuracy",
        "rollouts",
        "distinct",
        "seconds",
        title=f"{prompts:,} prompts, {options.steps} steps of {options.batch_size} x "
        f"{options.group_size}, {options.seeds} seeds",
        caption=f"effective: fraction of partial groups among those trained on, from step {EARLY} on; "
        "rolled out: among all that were rolled out; accuracy: on held-out prompts at the end",
    )
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(f"{prompts:,}", total=len(entries) * options.seeds)
        for name, entry in entries.items():
            began = time.perf_counter()
            outcomes = []
            for seed in range(options.seeds):
                outcomes.append(run(entry, prompts, seed, options))
                progress.advance(task)
            seconds = (time.perf_counter() - began) / options.seeds
            table.add_row(name, *_summary(outcomes), f"{seconds:.1f}")
            figures += [
                {"method": name, "prompts": prompts, "seed": seed, **vars(outcome)}
                for seed, outcome in enumerate(outcomes)
            ]
    console.print(table)
    return figures


def run(entry: Entry, prompts: int, seed: int, options: argparse.Namespace) -> Outcome:
    """One simulated run."""
    group_size = entry.group_size or options.group_size
    return simulate(
        entry.make(prompts, group_size, seed),
        steps=options.steps,
        batch_size=options.batch_size,
        group_size=group_size,
        seed=seed,
        max_gen_batches=entry.max_gen_batches,
        rest=entry.rest,
        constants=REAL._replace(rate=options.rate),
        hard=options.hard,
        easy=options.easy,
    )


def _summary(outcomes: Sequence[Outcome]) -> list[str]:
    return [
        _spread([float(np.mean(o.effective[EARLY:])) for o in outcomes], "{:.3f}"),
        _spread([float(np.mean(o.rolled_out[EARLY:])) for o in outcomes], "{:.3f}"),
        _spread([o.accuracy[-1] for o in outcomes], "{:.3f}"),
        _spread([o.rollouts[-1] for o in outcomes], "{:,.0f}"),
        _spread([o.distinct for o in outcomes], "{:,.0f}"),
    ]


def _spread(values: Sequence[float], form: str) -> str:
    """The mean as text, with its standard error if there are several different values."""
    mean = form.format(np.mean(values))
    if len(values) < 2 or np.ptp(values) == 0:
        return mean
    return f"{mean} ± {form.format(np.std(values, ddof=1) / np.sqrt(len(values)))}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
