"""What a step of pooled beliefs costs, for pools of 10^5 to 10^7 prompts and up to 10^4 clusters.

    python -m benchmarks.pooled
    python -m benchmarks.pooled --sizes 100000 --clusters 20

Prompts have a success rate by cluster; batches of 256 are selected and observed until as many prompts have a
row as ever will, and then timed. A minute and 2 GB for 10^7.
"""

import argparse
import sys
import time
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from dps_ray.beliefs.states import Observation
from dps_ray.selection.pooled import PooledStore, number_within

BATCH, K = 256, 8
WARM_UP, TIMED = 55, 20


class Row(NamedTuple):
    prompts: int
    clusters: int
    observation: str
    observe: float  # milliseconds, median
    select: float  # in the same unit
    build: float  # seconds
    bytes: float  # of a prompt


def measure(prompts: int, clusters: int, observation: str) -> Row:
    rng = np.random.default_rng(0)
    ids, labels = np.arange(prompts), rng.integers(clusters, size=prompts)
    rates = rng.random(clusters)
    began = time.perf_counter()
    store = PooledStore(ids, number_within(ids, labels, 0), observation=observation)  # type: ignore[arg-type]
    build = time.perf_counter() - began
    observe, select, chosen = [], [], store.select(BATCH).ids
    for _ in range(WARM_UP + TIMED):
        right = rng.binomial(K, rates[labels[chosen]])
        states = np.select([right == 0, right == K], [0, 2], 1)
        first = time.perf_counter()
        store.observe(Observation(chosen, states, right, np.full(BATCH, K)))
        second = time.perf_counter()
        chosen = store.select(BATCH).ids
        observe.append(1e3 * (second - first))
        select.append(1e3 * (time.perf_counter() - second))
    return Row(
        prompts,
        clusters,
        observation,
        float(np.median(observe[WARM_UP:])),
        float(np.median(select[WARM_UP:])),
        build,
        store.nbytes / prompts,
    )


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pooled", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**5, 10**6, 10**7])
    parser.add_argument("--clusters", type=int, nargs="+", default=[1, 20, 10_000])
    options = parser.parse_args(arguments)
    table = Table(title=f"Pooled beliefs: median milliseconds of a step, batch of {BATCH}")
    for column in ("prompts", "clusters", "from", "observe", "select", "build, s", "bytes/prompt"):
        table.add_column(column, justify="right")
    for prompts in options.sizes:
        for clusters in options.clusters:
            for observation in ("states", "counts"):
                row = measure(prompts, clusters, observation)
                table.add_row(
                    f"{row.prompts:,}",
                    f"{row.clusters:,}",
                    row.observation,
                    f"{row.observe:.1f}",
                    f"{row.select:.1f}",
                    f"{row.build:.1f}",
                    f"{row.bytes:.1f}",
                )
    Console(width=max(100, Console().width)).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
