"""The simulated learner beside the real runs that it was fitted to.

    python -m pipelines.simulation.fit                    the table in docs/simulation.md, 8 seeds
    python -m pipelines.simulation.fit --search 300       300 s of random search around the constants first

Real runs: the arithmetic task, 3,300 prompts of 20 kinds, k = 8, one or a few seeds. Settings differ in batch
and learning rate, and each has a rate of its own:

    A: 16 prompts a step, 60 steps, lr 1e-4      B: 64 prompts, 50 steps, lr 1e-4      C: 64, 60 steps, lr 3e-5
"""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from pipelines.simulation.entries import ENTRIES
from pipelines.simulation.model import REAL, Constants, World, simulate, success

POOL = 3_300
START_ACCURACY = 0.228
BATCH = {"A": (16, 60), "B": (64, 50), "C": (64, 60)}  # prompts a step, steps
RATES = {"A": REAL.rate, "B": 0.115, "C": 0.105}
# Errors that weigh the same: a few points of accuracy or effective ratio, a part of a count.
TOLERANCES = {"accuracy": 0.03, "effective": 0.05, "distinct": 0.15, "rollouts": 0.15}
CAP = (
    5.0  # an error counts as so many tolerances at the most: one misfit must not decide all others
)


class Run(NamedTuple):
    """A real run, the mean over its seeds.

    accuracy:   by step at which it was measured
    effective:  partial groups of those rolled out: means of 10 steps each, or one mean of all
    """

    setting: str
    method: str
    accuracy: dict[int, float]
    effective: tuple[float, ...] = ()
    distinct: int | None = None
    rollouts: int | None = None


RUNS = (
    Run("A", "uniform", {20: 0.318, 40: 0.393, 60: 0.498}, (0.24, 0.35, 0.43, 0.36, 0.36, 0.49)),
    Run("A", "dps", {20: 0.278, 40: 0.292, 60: 0.425}, (0.57, 0.79, 0.62, 0.63, 0.68, 0.60), 192),
    Run("A", "dps_rest", {60: 0.510}, (0.25, 0.41, 0.57, 0.66, 0.68, 0.64), 549),
    Run("A", "ds_10", {20: 0.382, 40: 0.574, 60: 0.714}, rollouts=22_912),
    Run("B", "uniform", {50: 0.524}, (0.36,)),
    Run("B", "dps", {50: 0.453}, (0.573,), 793),
    Run("C", "uniform", {60: 0.510}, (0.23, 0.29, 0.38, 0.45, 0.47, 0.48)),
    Run("C", "dps", {60: 0.512}, (0.56, 0.81, 0.88, 0.80, 0.72, 0.61), 560),
)


class Measured(NamedTuple):
    """A figure: what the real run showed, what the simulated one does, and the error by which it counts."""

    run: Run
    name: str
    real: float
    simulated: float
    kind: str

    @property
    def error(self) -> float:
        """In tolerances."""
        if self.kind in ("distinct", "rollouts"):
            return float(np.log(self.simulated / self.real) / TOLERANCES[self.kind])
        return (self.simulated - self.real) / TOLERANCES[self.kind]


def measure(constants: Constants, rates: dict[str, float], seeds: Sequence[int]) -> list[Measured]:
    """Every figure of the real runs, simulated: means over seeds."""
    figures = []
    for run in RUNS:
        entry, (batch_size, steps) = ENTRIES[run.method], BATCH[run.setting]
        outcomes = [
            simulate(
                entry.make(POOL, 8, seed),
                steps=steps,
                batch_size=batch_size,
                seed=seed,
                max_gen_batches=entry.max_gen_batches,
                rest=entry.rest,
                constants=constants._replace(rate=rates[run.setting]),
            )
            for seed in seeds
        ]
        accuracy = np.mean([o.accuracy for o in outcomes], axis=0)
        for step, real in run.accuracy.items():
            figures.append(
                Measured(run, f"accuracy, step {step}", real, accuracy[step - 1], "accuracy")
            )
        if run.effective:
            rolled_out = np.mean([o.rolled_out for o in outcomes], axis=0)
            parts = np.split(rolled_out, len(run.effective))
            for number, (real, part) in enumerate(zip(run.effective, parts, strict=True)):
                name = f"effective, steps {number * len(part) + 1}-{(number + 1) * len(part)}"
                figures.append(Measured(run, name, real, float(part.mean()), "effective"))
        if run.distinct:
            distinct = float(np.mean([o.distinct for o in outcomes]))
            figures.append(Measured(run, "distinct", run.distinct, distinct, "distinct"))
        if run.rollouts:
            rollouts = float(np.mean([o.rollouts[-1] for o in outcomes]))
            figures.append(Measured(run, "rollouts", run.rollouts, rollouts, "rollouts"))
    return figures


def loss(figures: Sequence[Measured]) -> float:
    """Sum over figures of squared error; the effective ratios of a run count as one figure."""
    total = 0.0
    for figure in figures:
        weight = 1 / len(figure.run.effective) if figure.kind == "effective" else 1.0
        total += weight * min(abs(figure.error), CAP) ** 2
    return total


def started(constants: Constants) -> Constants:
    """These constants with the start skill at which the accuracy is that of the real start."""
    world = World.of(20_000, 0, constants)
    low, high = -10.0, 10.0
    for _ in range(30):
        middle = (low + high) / 2
        rate = success(world, np.full(20, middle)).mean()
        low, high = (middle, high) if rate < START_ACCURACY else (low, middle)
    return constants._replace(start=round(middle, 2))


def search(
    seconds: float, constants: Constants, rates: dict[str, float], seed: int = 0
) -> tuple[Constants, dict[str, float]]:
    """Random search: vary some of what was best so far, keep what is better. Deterministic but for time."""
    rng = np.random.default_rng(seed)
    free = ("spread", "half", "shared", "own", "reuse", "memory")
    end = time.perf_counter() + seconds
    best, least = (started(constants), rates), np.inf
    while time.perf_counter() < end:
        scale = rng.choice([0.05, 0.15, 0.4])
        varied = {name: getattr(best[0], name) for name in free if rng.random() < 0.5}
        for name, value in varied.items():
            if name in ("shared", "memory"):  # shares: odds are varied
                odds = value / (1 - value) * np.exp(scale * rng.normal())
                varied[name] = float(odds / (1 + odds))
            else:
                varied[name] = float(value * np.exp(scale * rng.normal()))
        candidate = (
            started(best[0]._replace(**varied)),
            {
                name: float(rate * np.exp(scale * rng.normal() / 2))
                for name, rate in best[1].items()
            },
        )
        found = loss(measure(*(candidate if least < np.inf else best), seeds=(0, 1)))
        if found < least:
            best, least = (candidate if least < np.inf else best), found
            print(f"{found:.1f}", best)
    return best


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.simulation.fit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--search", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--seeds", type=int, default=8)
    options = parser.parse_args(arguments)
    constants, rates = search(options.search, REAL, RATES) if options.search else (REAL, RATES)
    figures = measure(constants, rates, range(options.seeds))
    table = Table("setting", "method", "figure", "real", "simulated", "error in tolerances")
    for figure in figures:
        form = "{:,.0f}" if figure.kind in ("distinct", "rollouts") else "{:.3f}"
        table.add_row(
            figure.run.setting,
            figure.run.method,
            figure.name,
            form.format(figure.real),
            form.format(figure.simulated),
            f"{figure.error:+.1f}",
        )
    console = Console()
    console.print(table)
    console.print(f"{constants}\nrates {rates}\nloss {loss(figures):.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
