"""Whether choosing prompts by the squared advantages of an objective teaches more than choosing by P(partial), simulated.

    python -m pipelines.simulation.scores                     the table in docs/method.md: 2 minutes
    python -m pipelines.simulation.scores --seeds 3 --prompts 12000 --batch-size 256 --steps 120 --rate 0.045

For each objective, and each selector with each score: held-out accuracy in the end, and the difference to the same selector
with `partial` and the same seeds. What the objectives teach the simulated learner: pipelines/simulation/objectives.py.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from dps_ray.errors import ConfigError, DPSError
from dps_ray.selection.signal import Score
from pipelines.command.exits import refused
from pipelines.simulation.entries import Make, pooled, selector
from pipelines.simulation.model import REAL, simulate
from pipelines.simulation.objectives import Objective

GROUP_SIZE, REST = 8, 10


def _selectors(score: Score) -> dict[str, Make]:
    return {
        "dps_pooled": pooled("topics", score=score),
        "dps_pooled, states": pooled("topics", observation="states", score=score),
        f"dps, rest {REST}": selector("dps", rest=REST, score=score),
        f"dps, counts, rest {REST}": selector("dps", observation="counts", rest=REST, score=score),
    }


def main(arguments: Sequence[str]) -> int:
    """Runs the program. Returns its exit code: 0 if finished, 2 if the input is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.simulation.scores",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=5, help="runs of each row (5)")
    parser.add_argument("--prompts", type=int, default=3_300, help="prompts in the pool (3300)")
    parser.add_argument("--batch-size", type=int, default=16, help="prompts per step (16)")
    parser.add_argument("--steps", type=int, default=60, help="training steps of a run (60)")
    parser.add_argument("--rate", type=float, default=0.16, help="skill gained per step (0.16)")
    options = parser.parse_args(arguments)
    try:
        _check(options)
    except DPSError as error:
        return refused(error)
    Console().print(_table(options))
    return 0


def _check(options: argparse.Namespace) -> None:
    for name, least in (("seeds", 2), ("batch_size", 1), ("steps", 1)):
        if getattr(options, name) < least:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} {getattr(options, name)}: write {least} or more")
    if options.prompts < options.batch_size:
        raise ConfigError(
            f"--prompts {options.prompts}: a batch has {options.batch_size} prompts; give at least as many, or a smaller "
            "--batch-size"
        )
    if not options.rate > 0:
        raise ConfigError(f"--rate {options.rate}: write a positive number")


def _table(options: argparse.Namespace) -> Table:
    scores: tuple[Score, ...] = get_args(Score)
    table = Table(
        "objective",
        "selector",
        *scores,
        title=f"Simulated: {options.prompts:,} prompts, {options.steps} steps of {options.batch_size} x {GROUP_SIZE}, "
        f"{options.seeds} seeds",
        caption="accuracy in the end with score=partial; differences to it with the others",
    )
    for objective in get_args(Objective):
        uniform = _accuracies(selector("uniform"), objective, options)
        table.add_row(objective, "uniform", f"{uniform.mean():.3f}")
        for name in _selectors("partial"):
            runs = {
                score: _accuracies(_selectors(score)[name], objective, options) for score in scores
            }
            base = runs.pop("partial")
            table.add_row(
                objective,
                name,
                f"{base.mean():.3f}",
                *(_difference(r - base) for r in runs.values()),
            )
    return table


def _accuracies(
    make: Make, objective: Objective, options: argparse.Namespace
) -> NDArray[np.float64]:
    """Held-out accuracy in the end, by seed."""
    return np.array(
        [
            simulate(
                make(options.prompts, GROUP_SIZE, seed),
                steps=options.steps,
                batch_size=options.batch_size,
                group_size=GROUP_SIZE,
                seed=seed,
                constants=REAL._replace(rate=options.rate),
                objective=objective,
            ).accuracy[-1]
            for seed in range(options.seeds)
        ]
    )


def _difference(values: NDArray[np.float64]) -> str:
    """The mean of differences by seed, with its standard error."""
    return f"{values.mean():+.3f} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.3f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
