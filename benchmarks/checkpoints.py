"""What a checkpoint of the beliefs costs beside writing the same bytes with one `write` and one `fsync`:

python -m benchmarks.checkpoints
"""

import os
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from dps_ray import BeliefStore
from dps_ray.beliefs.states import Observation
from dps_ray.durable import Storage, write_snapshot


def main(seen: int = 100_000, repeats: int = 7) -> None:
    """Print time and bytes of snapshots of two pools, in which `seen` prompts were observed."""
    table = Table(
        "pool", "seen", "bytes", "snapshot", "written", "one write + fsync", "ratio (spread)"
    )
    for prompts in (1_000_000, 10_000_000):
        store = BeliefStore(np.arange(prompts), decay=0.9)
        for ids in np.array_split(
            np.random.default_rng(0).choice(prompts, seen, replace=False), 20
        ):
            store.observe(Observation(ids, ids % 3))
        snapshot, write, plain = [], [], []
        with tempfile.TemporaryDirectory(prefix="dps_ray-checkpoints-") as folder:
            for repeat in range(repeats):
                began = time.perf_counter()
                taken = store.snapshot()
                between = time.perf_counter()
                stored = write_snapshot(Storage.at(folder), f"ckpt/{repeat}.arrow", taken)
                snapshot.append(between - began)
                write.append(time.perf_counter() - between)
                plain.append(_one_write(Path(folder) / f"{repeat}.bin", stored.bytes))
        ratios = np.divide(np.add(snapshot, write), plain)
        table.add_row(
            f"{prompts:,}",
            f"{seen:,}",
            f"{stored.bytes:,}",
            *(f"{1e3 * np.median(each):.0f} ms" for each in (snapshot, write, plain)),
            f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})",
        )
    Console().print(table)


def _one_write(path: Path, count: int) -> float:
    content = os.urandom(count)
    began = time.perf_counter()
    with path.open("xb", buffering=0) as file:
        file.write(content)
        os.fsync(file.fileno())
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
