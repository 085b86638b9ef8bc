"""What a step of the beliefs costs, against the size of the pool:  python -m benchmarks.beliefs

Observe a batch of 256, look up what is predicted of it, select the next 256; median milliseconds, once
the selection has run for 300 steps on outcomes of a drifting simulated learner. Side by side, in one run:

    (a)  ours, `dps_ray.BeliefStore`
    (b)  an eager vectorised sweep in NumPy, with argpartition
    (b') a sweep in our memory layout, without any selection: what no eager method gets below
    (c)  a Python loop over the prompts, as the published code has it

and ours through Ray, on 1, 2 and 4 shards, beside an empty call with the same payload.

The cost of (b) and (c) depends on the number of prompts alone, so a few steps of them will do. (c) is run
up to 30,000 prompts, and beyond is extrapolated in proportion.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.belief_figure import draw
from benchmarks.belief_methods import (
    DriftingLearner,
    Eager,
    Loop,
    Method,
    Ours,
    Sweep,
)
from benchmarks.belief_shards import ShardsRow, through_ray
from dps_ray import BeliefStore
from dps_ray.beliefs.states import Observation
from dps_ray.paths import path_option
from dps_ray.selection.pool.index import PromptIndex

SIZES = [10_000, 30_000, 100_000, 1_000_000, 10_000_000]
DECAYS = [0.5, 0.7, 0.9, 0.99]
SHARDS = [1, 2, 4]
SHARDED_PROMPTS = 1_000_000
BATCH = 256
WARM_UP, TIMED = 300, 100
LONGEST_LOOP = 30_000
LEARNER_SEED = 0


class Row(NamedTuple):
    """One method at one size and decay."""

    method: str
    prompts: int
    decay: float
    milliseconds: float  # median of a step
    extrapolated: bool = False
    moving: int | None = None  # prompts with a row of their own, ours alone
    bytes_per_prompt: float | None = None


class Build(NamedTuple):
    """Making a store, beside sorting its ids."""

    prompts: int
    seconds: float
    sort_seconds: float


class Target(NamedTuple):
    """A ratio or size this run has to show."""

    name: str
    value: float
    limit: float
    at_most: bool

    @property
    def met(self) -> bool:
        return self.value <= self.limit if self.at_most else self.value >= self.limit


def measure(method: Method, warm_up: int, timed: int) -> float:
    """Median milliseconds of a step, the method choosing for itself."""
    learner = DriftingLearner(LEARNER_SEED)
    ids = np.arange(BATCH)
    milliseconds = []
    for step in range(warm_up + timed):
        states = learner.states(ids)
        start = time.perf_counter()
        ids = method.step(ids, states, BATCH)
        if step >= warm_up:
            milliseconds.append(1e3 * (time.perf_counter() - start))
    return float(np.median(milliseconds))


def build(prompts: int) -> tuple[Build, PromptIndex]:
    """Seconds to make a store of shuffled ids, and to sort them; best of three, taken in turns."""
    ids = np.random.default_rng(0).permutation(prompts)
    seconds, sort_seconds = [], []
    for _ in range(3):
        start = time.perf_counter()
        np.sort(ids)
        middle = time.perf_counter()
        store = BeliefStore(ids)
        sort_seconds.append(middle - start)
        seconds.append(time.perf_counter() - middle)
    return Build(prompts, min(seconds), min(sort_seconds)), store.index


def ours(index: PromptIndex, decay: float) -> Row:
    method = Ours(BeliefStore(index, decay=decay))
    milliseconds = measure(method, WARM_UP, TIMED)
    return Row(
        "ours",
        len(index),
        decay,
        milliseconds,
        moving=int(method.store.metrics()["beliefs/active_rows"]),
        bytes_per_prompt=method.store.nbytes / len(index),
    )


def eager(name: str, make: Callable[[int, float], Method], prompts: int, decay: float) -> Row:
    timed = int(np.clip(10_000_000 // prompts, 3, 20))
    return Row(name, prompts, decay, measure(make(prompts, decay), 2, timed))


def loop(prompts: int, decay: float) -> Row:
    return Row("loop", prompts, decay, measure(Loop(prompts, decay), 1, 3))


def extrapolated(row: Row, prompts: int) -> Row:
    milliseconds = row.milliseconds * prompts / row.prompts
    return row._replace(prompts=prompts, milliseconds=milliseconds, extrapolated=True)


def bytes_of_idle_prompts(prompts: int) -> tuple[float, float]:
    """Bytes of an idle prompt, all indexes included: never sampled; and once all have been."""
    store = BeliefStore(np.arange(prompts), decay=0.0)
    never = store.nbytes / prompts
    nothing = Observation(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int8))
    for part in np.array_split(np.arange(prompts), 1000):
        store.observe(Observation(part, np.zeros(len(part), dtype=np.int8)))
    for _ in range(10):
        store.observe(nothing)
    assert not store.metrics()["beliefs/active_rows"]
    return never, store.nbytes / prompts


def rows(sizes: list[int], decays: list[float]) -> Iterator[tuple[int, float, Row | Build]]:
    """All measurements, each as soon as it is there, with its size and decay."""
    longest: dict[float, Row] = {}
    for prompts in sizes:
        built, index = build(prompts)
        yield prompts, 0.0, built
        for decay in decays:
            yield prompts, decay, ours(index, decay)
            yield prompts, decay, eager("eager", Eager, prompts, decay)
            yield prompts, decay, eager("sweep", Sweep, prompts, decay)
            if prompts <= LONGEST_LOOP:
                longest[decay] = loop(prompts, decay)
                yield prompts, decay, longest[decay]
            elif decay in longest:
                yield prompts, decay, extrapolated(longest[decay], prompts)


def targets(
    measured: list[Row], builds: list[Build], sharded: list[ShardsRow], idle_bytes: float
) -> list[Target]:
    """What of the issue's targets the measured sizes can show."""
    cost = {(row.method, row.prompts, row.decay): row.milliseconds for row in measured}

    def ratio(above: tuple[str, int, float], below: tuple[str, int, float]) -> list[float]:
        return [cost[above] / cost[below]] if above in cost and below in cost else []

    found = [Target("bytes of an idle prompt, sampled before", idle_bytes, 32, at_most=True)]
    for decay in DECAYS:
        name = f"ours at 10^7 against ours at 10^5, decay {decay}"
        for value in ratio(("ours", 10**7, decay), ("ours", 10**5, decay)):
            found.append(Target(name, value, 1.3, at_most=True))
    for method, prompts, limit in (("eager", 10**6, 100), ("eager", 10**7, 1000)):
        for value in ratio((method, prompts, 0.7), ("ours", prompts, 0.7)):
            name = f"{method} against ours, {prompts:,} prompts, decay 0.7"
            found.append(Target(name, value, limit, at_most=False))
    for value in ratio(("loop", LONGEST_LOOP, 0.7), ("ours", LONGEST_LOOP, 0.7)):
        name = f"loop against ours, {LONGEST_LOOP:,} prompts, decay 0.7"
        found.append(Target(name, value, 500, at_most=False))
    for built in builds:
        if built.prompts == 10**7:
            value = built.seconds / built.sort_seconds
            found.append(Target("building 10^7 against sorting them", value, 5, at_most=True))
    for row in sharded:
        if row.shards == 4:
            name = "four shards through Ray against an empty call to them"
            found.append(Target(name, row.ratio, 4, at_most=True))
    return found


def step_table(measured: list[Row]) -> Table:
    table = Table(title=f"Median milliseconds a step, batch of {BATCH}; ~ extrapolated")
    for column in (
        "prompts",
        "decay",
        "ours",
        "(b) eager",
        "(b') sweep",
        "(c) loop",
        "moving",
        "bytes",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for prompts, decay in dict.fromkeys((row.prompts, row.decay) for row in measured):
        here = {row.method: row for row in measured if row[1:3] == (prompts, decay)}
        times = [
            f"{'~' * row.extrapolated}{row.milliseconds:,.{3 if name == 'ours' else 1}f}"
            for name in ("ours", "eager", "sweep", "loop")
            if (row := here.get(name)) is not None
        ]
        table.add_row(
            f"{prompts:,}",
            f"{decay}",
            *times,
            f"{here['ours'].moving:,}",
            f"{here['ours'].bytes_per_prompt:.1f}",
        )
    return table


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.beliefs", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--json", type=path_option, help="write all numbers to this file")
    parser.add_argument("--figure", type=path_option, help="draw them into this file (.svg, .png)")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="prompts in the pool")
    parser.add_argument("--decays", type=float, nargs="+", default=DECAYS)
    parser.add_argument("--shards", type=int, nargs="*", default=SHARDS, help="through Ray")
    options = parser.parse_args(arguments)

    measured: list[Row] = []
    builds: list[Build] = []
    with Progress() as progress:
        total = len(options.sizes) * (1 + 4 * len(options.decays)) + 1 + len(options.shards)
        task = progress.add_task("bytes of idle prompts", total=total)
        never, once = bytes_of_idle_prompts(1_000_000)
        progress.advance(task)
        for prompts, decay, result in rows(options.sizes, options.decays):
            (builds if isinstance(result, Build) else measured).append(result)  # type: ignore[arg-type]
            progress.update(task, advance=1, description=f"{prompts:,} prompts, decay {decay}")
        sharded = []
        for row in through_ray(options.shards, SHARDED_PROMPTS, BATCH):
            sharded.append(row)
            progress.update(task, advance=1, description=f"{row.shards} shards through Ray")

    console = Console(width=max(100, Console().width))
    console.print(step_table(measured))
    for built in builds:
        console.print(
            f"{built.prompts:>12,} ids: store built in {built.seconds:.3f} s, "
            f"sorted in {built.sort_seconds:.3f} s"
        )
    console.print(
        f"idle prompt: {never:.1f} bytes never sampled, {once:.1f} bytes once it has been"
    )
    for row in sharded:
        console.print(
            f"{row.shards} shards through Ray, {row.prompts:,} prompts: {row.milliseconds:.2f} ms a step, "
            f"an empty call {row.empty_milliseconds:.2f} ms, ratio {row.ratio:.2f}"
        )
    checks = targets(measured, builds, sharded, once)
    for target in checks:
        sign, verdict = ("<=" if target.at_most else ">="), ("met" if target.met else "MISSED")
        console.print(f"{verdict:>6}  {target.name}: {target.value:,.2f} {sign} {target.limit:g}")
    if options.figure:
        draw(measured, 0.7 if 0.7 in options.decays else options.decays[0], BATCH, options.figure)
    if options.json:
        report: dict[str, Any] = {
            "steps": [row._asdict() for row in measured],
            "builds": [built._asdict() for built in builds],
            "through_ray": [row._asdict() for row in sharded],
            "idle_bytes": {"never_sampled": never, "sampled": once},
            "targets": [{**target._asdict(), "met": target.met} for target in checks],
        }
        options.json.write_text(json.dumps(report, indent=1))
    return 0 if all(target.met for target in checks) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
