"""What rules for rounds cost and bring: by arithmetic for one belief, and with the simulated learner.

    python -m pipelines.simulation.rounds                                  the tables in docs/simulation.md: 30 s
    python -m pipelines.simulation.rounds --belief 0.2 1 --seeds 0          the arithmetic alone

The arithmetic is exact: it sums over all outcomes of groups whose solve rate has this Beta distribution. In the simulation
`dps_pooled` (from counts) chooses from 3,300 prompts until a number of responses were generated. A step has about as many
responses with every rule as 16 groups of 8, so all rules take about as many steps; smaller groups mean more prompts a step.
Dynamic Sampling takes as many steps, and as many responses as it needs.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from dps_ray.beliefs.beta_rates import BetaRates
from dps_ray.errors import ConfigError, DPSError
from dps_ray.selection.adaptive_rounds import signal
from dps_ray.selection.rounds import RoundRule
from pipelines.command.exits import refused
from pipelines.simulation.entries import ENTRIES
from pipelines.simulation.model import REAL, Outcome, simulate

POOL, STEP, RATE = 3_300, 128, 0.16  # prompts, responses of a step, skill gained in a step
BELIEF = (0.354, 0.354)
LATE = 0.3  # of the rollouts, which are left out of the rollouts for one mixed group: methods know little then


def _fixed(*sizes: int, stop: str = "mixed", least_chance: float = 0.0) -> RoundRule:
    return RoundRule(sizes, stop, least_chance, sum(sizes))  # type: ignore[arg-type]


RULES = {
    "k = 8": _fixed(8),
    "4, 4: give up if all are equal": _fixed(4, 4, stop="hopeless", least_chance=0.999),
    "4, 4: stop when mixed": _fixed(4, 4),
    "2, 2, 2, 2: stop when mixed": _fixed(2, 2, 2, 2),
    "adaptive, up to 8": RoundRule("adaptive", "mixed", 0.0, 8),
    "adaptive, mixed may go on": RoundRule("adaptive", "hopeless", 0.0, 8),
    "k = 4": _fixed(4),
    "2, 2: stop when mixed": _fixed(2, 2),
    "adaptive, up to 4": RoundRule("adaptive", "mixed", 0.0, 4),
    "k = 2": _fixed(2),
}
# Dynamic Sampling: how its groups are generated, and how its batch is refilled.
SAMPLINGS: dict[str, tuple[RoundRule, Literal["batch", "missing"]]] = {
    "DS, k = 8, refilled by whole batches": (_fixed(8), "batch"),
    "DS, k = 8": (_fixed(8), "missing"),
    "DS, 2, 2, 4: stop when mixed": (_fixed(2, 2, 4), "missing"),
    "DS, k = 4": (_fixed(4), "missing"),
}
PUBLISHED = next(iter(SAMPLINGS))


class Expected(NamedTuple):
    """What comes of a prompt, on average."""

    responses: float
    rounds: float
    mixed: float
    signal: float


def expected(rule: RoundRule, a: float, b: float) -> Expected:
    """Returns the averages over all outcomes of a prompt whose rate has the distribution Beta(a, b)."""
    prior = BetaRates(np.array([a]), np.array([b]), np.array([True]))
    going = {(0, 0): 1.0}  # by right and all responses so far: probability
    totals = np.zeros(4)
    while going:
        further: dict[tuple[int, int], float] = {}
        for (right, size), chance in going.items():
            more = int(rule.next(prior, [right], [size])[0] if size else rule.first(prior)[0])
            if not more:
                gained = float(signal(right, size))
                totals += chance * np.array([size, 0, 0 < right < size, gained])
                continue
            totals[1] += chance
            for successes, share in enumerate(_beta_binomial(a + right, b + size - right, more)):
                state = right + successes, size + more
                further[state] = further.get(state, 0.0) + chance * share
        going = further
    return Expected(*totals.tolist())


def _beta_binomial(a: float, b: float, size: int) -> list[float]:
    """P(s right of `size`), s = 0 to size."""
    chances = [1.0]
    for n in range(size):
        following = [0.0] * (n + 2)
        for s, chance in enumerate(chances):
            right = (a + s) / (a + b + n)
            following[s + 1] += chance * right
            following[s] += chance * (1 - right)
        chances = following
    return chances


def simulated(rule: RoundRule, batch_size: int, rollouts: int, seed: int) -> Outcome:
    """Returns a run of `dps_pooled` that ends once so many responses were generated."""
    how = {"steps": rollouts // batch_size, "rollouts": rollouts}
    return _run("pooled_counts", rule, batch_size, seed, **how)


def sampled(
    rule: RoundRule, batch_size: int, steps: int, seed: int, refill: Literal["batch", "missing"]
) -> Outcome:
    """Returns a run of Dynamic Sampling, which tries at most ten batches in a step."""
    how = {"steps": steps, "max_gen_batches": 10, "refill": refill}
    return _run("uniform", rule, batch_size, seed, **how)


def _run(entry: str, rule: RoundRule, batch_size: int, seed: int, **how: Any) -> Outcome:
    return simulate(
        ENTRIES[entry].make(POOL, rule.group_size, seed),
        batch_size=batch_size,
        group_size=rule.group_size,
        rounds=None if rule.sizes == (rule.group_size,) else rule,
        seed=seed,
        constants=REAL._replace(rate=RATE),
        **how,
    )


def main(arguments: Sequence[str]) -> int:
    """Runs the program. Returns its exit code: 0 if finished, 2 if the input is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.simulation.rounds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--belief",
        type=float,
        nargs=2,
        default=BELIEF,
        metavar=("A", "B"),
        help="the Beta distribution of the selected prompts' solve rates (0.354 0.354: in the comparison's task as many groups of "
        "2, 4 and 8 are mixed)",
    )
    parser.add_argument("--seeds", type=int, default=5, help="simulated runs of each rule (5)")
    parser.add_argument(
        "--rollouts", type=int, default=7_680, help="responses of a simulated run (7680)"
    )
    options = parser.parse_args(arguments)
    try:
        _check(options)
    except DPSError as error:
        return refused(error)
    console, (a, b) = Console(), options.belief
    console.print(_arithmetic(a, b))
    if options.seeds:
        console.print(_simulation(a, b, options.rollouts, options.seeds))
    return 0


def _check(options: argparse.Namespace) -> None:
    if not (min(options.belief) > 0 and np.isfinite(options.belief).all()):
        raise ConfigError(
            f"--belief {options.belief[0]} {options.belief[1]}: write two numbers > 0"
        )
    for name, least in (("seeds", 0), ("rollouts", 20 * STEP)):
        if getattr(options, name) < least:
            raise ConfigError(f"--{name} {getattr(options, name)}: write {least} or more")


def _arithmetic(a: float, b: float) -> Table:
    table = Table(
        "rule",
        "responses",
        "rounds",
        "mixed",
        "rollouts for a mixed group",
        "of k = 8",
        "rollouts for the signal of a mixed 8",
        "of k = 8",
        title=f"By arithmetic: rates from Beta({a}, {b})",
    )
    full = expected(RULES["k = 8"], a, b)
    mixed_8 = full.signal / full.mixed
    for name, rule in RULES.items():
        found = expected(rule, a, b)
        by_group = found.responses / found.mixed
        by_signal = found.responses / found.signal
        table.add_row(
            name,
            f"{found.responses:.2f}",
            f"{found.rounds:.2f}",
            f"{found.mixed:.3f}",
            f"{by_group:.1f}",
            f"{by_group * full.mixed / full.responses:.2f}",
            f"{by_signal * mixed_8:.1f}",
            f"{by_signal * full.signal / full.responses:.2f}",
        )
    return table


def _simulation(a: float, b: float, rollouts: int, seeds: int) -> Table:
    table = Table(
        "rule",
        "prompts a step",
        "steps",
        "rollouts",
        "rollouts for a mixed group",
        "of published DS's",
        "accuracy",
        title=f"Simulated: {POOL:,} prompts, {rollouts:,} rollouts, {seeds} seeds; Dynamic Sampling (DS): {rollouts // STEP} steps",
        caption=f"rollouts for a mixed group: without the first {LATE:.0%} of the rollouts, and of those that train",
    )

    def size(rule: RoundRule) -> int:
        return round(STEP / expected(rule, a, b).responses)

    runs = {
        name: [sampled(rule, size(rule), rollouts // STEP, seed, refill) for seed in range(seeds)]
        for name, (rule, refill) in SAMPLINGS.items()
    }
    base = np.mean([_late_cost(outcome) for outcome in runs[PUBLISHED]])
    for name, rule in RULES.items():
        runs[name] = [simulated(rule, size(rule), rollouts, seed) for seed in range(seeds)]
    rules = {name: rule for name, (rule, _) in SAMPLINGS.items()} | RULES
    for name, outcomes in runs.items():
        costs = [_late_cost(outcome) for outcome in outcomes]
        ends = [o.rollouts[-1] if name in SAMPLINGS else rollouts for o in outcomes]
        accuracies = [
            float(np.interp(end, o.rollouts, o.accuracy))
            for end, o in zip(ends, outcomes, strict=True)
        ]
        table.add_row(
            name,
            str(size(rules[name])),
            f"{np.mean([len(o.rollouts) for o in outcomes]):.0f}",
            f"{np.mean(ends):,.0f}",
            _spread(costs, "{:.1f}"),
            f"{np.mean(costs) / base:.0%}",
            _spread(accuracies, "{:.3f}"),
        )
    return table


def _late_cost(outcome: Outcome) -> float:
    start = int(np.searchsorted(outcome.rollouts, LATE * outcome.rollouts[-1]))
    groups = outcome.trained[-1] - outcome.trained[start]
    return (outcome.rollouts[-1] - outcome.rollouts[start]) / groups


def _spread(values: Sequence[float], form: str) -> str:
    mean = form.format(np.mean(values))
    if len(values) < 2:
        return mean
    return f"{mean} ± {form.format(np.std(values, ddof=1) / np.sqrt(len(values)))}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
