"""What the driver does that grows with the pool, by prompts, without reading any file of prompts.

    python -m benchmarks.scale_driver
    python -m benchmarks.scale_driver --prompts 10000000 100000000

For `dps_pooled` with 20 clusters: numbering the prompts within their clusters, which the cache keeps; then, at every start,
checking arrays of the cache, the digest of the pool, and dividing ids, labels and numbers over shards. Each size is measured
in a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.scale import CLUSTERS
from dps_ray.hashing import hash_ids
from dps_ray.prompts.cache import Cache, Entry, key_of
from dps_ray.selection.clusters import number_within
from dps_ray.selection.population import Population
from pipelines.training.pool_record import population_of

SHARDS = (16, 128)


def measure(prompts: int) -> dict[str, float]:
    """Seconds of each part, and the most memory that the process held, in GiB."""
    ids = np.sort(hash_ids(np.arange(prompts), 0).view(np.int64))
    labels = np.random.default_rng(0).integers(CLUSTERS, size=prompts, dtype=np.int32)
    found: dict[str, float] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        found[name] = time.perf_counter() - began

    with timed("numbering within clusters, s"):
        clusters = number_within(ids, labels, 0)
    found["memory for that, at most, GiB"] = _peak_gib()
    with tempfile.TemporaryDirectory() as folder:
        cache, key = Cache(Path(folder), print), key_of("benchmark", [("pool",)])
        arrays: dict[str, NDArray[Any]] = {
            "ids": ids,
            "labels": clusters.labels,
            "ranks": clusters.ranks,
        }
        cache.put(key, Entry(arrays, {}))
        with timed("checking ids, labels and numbers in the cache, s"):
            cache.get(key)
    with timed("digest of the pool, s"):
        population_of(ids, labels)
    population = Population(ids, clusters)
    for shards in SHARDS:
        with timed(f"dividing the pool over {shards} shards, s"):
            for _ in population.split(shards):
                pass
    return found


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale_driver", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--prompts", type=int, nargs="+", default=[10**7], metavar="N")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(measure(options.one)))
        return 0
    columns = []
    for prompts in options.prompts:
        program = [sys.executable, "-m", "benchmarks.scale_driver", "--one", str(prompts)]
        done = subprocess.run(program, stdout=subprocess.PIPE, text=True, check=True)
        columns.append(json.loads(done.stdout))
    print(f"| | {' | '.join(f'{prompts:,}' for prompts in options.prompts)} |")
    print(f"|---|{'---:|' * len(columns)}")
    for name in columns[0]:
        print(f"| {name} | {' | '.join(f'{column[name]:.2g}' for column in columns)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
