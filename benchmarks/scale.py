"""What a belief shard costs, by prompts that it holds, and what follows from that for pools of 10^7 to 10^9 prompts.

    python -m benchmarks.scale
    python -m benchmarks.scale --held 25000000 --stores 4        # 10^8 prompts, as four shards would hold them

Each store is measured in a process of its own, by itself, as a shard runs on a machine with a core to spare: the time to
make it, its memory, a step (observe a batch of 256, propose 2 x 256 + 32), the state that a checkpoint holds once 100,000
prompts were observed, and what travels to the shard and back. The second table is derived: an amount per prompt or per
shard, times prompts or shards.
"""

import argparse
import json
import math
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dps_ray.beliefs.states import Observation, observed
from dps_ray.durable import Storage, write_snapshot
from dps_ray.hashing import hash_ids
from dps_ray.selection import methods
from dps_ray.selection.clusters import number_within
from dps_ray.selection.selector import Context, Selector

BATCH, GROUP, CLUSTERS, SEEN = 256, 8, 20, 100_000
PROPOSED = 2 * BATCH + BATCH // 8
WARM_UP, TIMED = 55, 20
METHODS = ("dps", "dps_pooled")
POOLS, SHARDS = (10**7, 10**8, 10**9), (1, 16, 128)


class Shard(NamedTuple):
    """What one store costs, measured."""

    method: str
    held: int
    """Prompts in the store."""
    number_seconds: float
    """To number the prompts within their clusters, which the driver does; 0 for a method without clusters."""
    build_seconds: float
    bytes: int
    """Of memory that the process holds more, once the store is made."""
    peak_bytes: int
    """Of memory that the process held most, ids and labels included."""
    step_milliseconds: float
    snapshot_bytes: int
    snapshot_seconds: float
    """To take and write it."""
    load_seconds: float
    """To read it into a new store."""
    observation_bytes: int
    proposal_bytes: int


def measure(method: str, held: int, number: int) -> Shard:
    """Measures the `number`-th of the stores of one size."""
    ids = np.sort(hash_ids(np.arange(number * held, (number + 1) * held), 0).view(np.int64))
    rng = np.random.default_rng(number)
    clusters, numbered = None, 0.0
    pooled = method == "dps_pooled"
    if pooled:
        began = time.perf_counter()
        clusters = number_within(ids, rng.integers(CLUSTERS, size=held, dtype=np.int32), 0)
        numbered = time.perf_counter() - began
    settings = methods.load(method).Settings()
    context = Context(0, held, GROUP, clusters=clusters)
    before, began = _memory(), time.perf_counter()
    store = methods.make(method, ids, settings, context)
    built = time.perf_counter() - began
    held_bytes = _memory() - before

    def outcome(chosen: np.ndarray) -> Observation:
        found = observed(chosen, rng.binomial(GROUP, 0.4, len(chosen)), np.full(len(chosen), GROUP))
        if clusters is None:
            return found
        own = clusters.take(np.searchsorted(ids, found.ids))
        return found._replace(clusters=own.labels, ranks=own.ranks)

    step, observation, selection = _step_time(store, outcome)
    for part in np.array_split(rng.choice(ids, min(SEEN, held), replace=False), 10):
        store.observe(outcome(part))
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        snapshot = store.snapshot()
        stored = write_snapshot(Storage.at(folder), "beliefs.arrow", snapshot)
        saved = time.perf_counter() - began
    again = methods.make(method, ids, settings, context)
    began = time.perf_counter()
    again.load_state(snapshot)
    loaded = time.perf_counter() - began
    if not np.array_equal(again.select(BATCH).ids, store.select(BATCH).ids):
        raise RuntimeError(f"a {method} store over {held:,} prompts selects otherwise once loaded")
    return Shard(
        method,
        held,
        numbered,
        built,
        held_bytes,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10,
        step,
        stored.bytes,
        saved,
        loaded,
        len(pickle.dumps(observation, protocol=5)),
        len(pickle.dumps(selection, protocol=5)),
    )


def _step_time(store: Selector, outcome: Any) -> tuple[float, Observation, Any]:
    """Median milliseconds to observe a batch and propose the next, and the last of both."""
    chosen, times = store.select(PROPOSED), []
    for _ in range(WARM_UP + TIMED):
        observation = outcome(chosen.ids[:BATCH])
        began = time.perf_counter()
        store.observe(observation)
        chosen = store.select(PROPOSED)
        times.append(1e3 * (time.perf_counter() - began))
    return float(np.median(times[WARM_UP:])), observation, chosen


def _memory() -> int:
    """Bytes that this process holds and that are no pages of files."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 2**10
    raise RuntimeError("this system does not say how much memory a process holds")


def in_a_process(method: str, held: int, number: int) -> Shard:
    program = [sys.executable, "-m", "benchmarks.scale", "--one", method, str(held), str(number)]
    done = subprocess.run(program, stdout=subprocess.PIPE, text=True, check=True)
    return Shard(*json.loads(done.stdout))


def measured_table(shards: Sequence[Shard]) -> str:
    lines = [
        "| method | prompts held | numbering, s | making it, s | bytes a prompt | peak, MiB | step, ms | state, MB | "
        "to write, s | to load, s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for each in shards:
        cells = [
            each.method,
            f"{each.held:,}",
            f"{each.number_seconds:.1f}",
            f"{each.build_seconds:.1f}",
            f"{each.bytes / each.held:.1f}",
            f"{each.peak_bytes / 2**20:,.0f}",
            f"{each.step_milliseconds:.1f}",
            f"{each.snapshot_bytes / 1e6:.1f}",
            f"{each.snapshot_seconds:.2f}",
            f"{each.load_seconds:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def derived_table(shards: Sequence[Shard]) -> str:
    """What the largest measured store of each method gives for pools and numbers of shards that were not measured."""
    lines = [
        "| method | prompts | shards | memory a shard, GB | making a shard, s | state of 10^6 observed, a shard, MB | "
        "sent a step, MB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for method in dict.fromkeys(each.method for each in shards):
        largest = max((each for each in shards if each.method == method), key=lambda s: s.held)
        for prompts in POOLS:
            for count in SHARDS:
                held = prompts / count
                # Making a store sorts its prompts.
                made = largest.build_seconds * _sorting(held) / _sorting(largest.held)
                sent = count * (largest.observation_bytes + largest.proposal_bytes)
                state = largest.snapshot_bytes * 10**6 / min(SEEN, largest.held) / count
                memory = held * largest.bytes / largest.held
                cells = [
                    method,
                    f"10^{math.log10(prompts):.0f}",
                    f"{count}",
                    f"{memory / 1e9:.2g}",
                    f"{made:.2g}",
                    f"{state / 1e6:.2g}",
                    f"{sent / 1e6:.2g}",
                ]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _sorting(count: float) -> float:
    return count * math.log2(count)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--held", type=int, nargs="+", default=[10**6, 10**7], help="prompts in a store"
    )
    parser.add_argument("--stores", type=int, default=1, help="stores of each size (1)")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        method, held, number = options.one
        print(json.dumps(measure(method, int(held), int(number))))
        return 0
    found = [
        in_a_process(method, held, number)
        for method in options.methods
        for held in options.held
        for number in range(options.stores)
    ]
    print(f"Measured\n\n{measured_table(found)}\n\nDerived\n\n{derived_table(found)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
