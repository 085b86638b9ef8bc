"""What it costs to open a pool of prompts and to read a batch from it:  python -m benchmarks.prompts

Writes Countdown-like prompts in verl's schema into a temporary folder, opens and checks them, and reads
256 random prompts at a time. Memory is what the process holds more than before, anonymous pages only.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from dps_ray.prompts.dataset import PromptTable
from dps_ray.prompts.files import write_prompts

BATCH, REPEATS = 256, 20


def rows(count: int) -> Iterator[dict[str, Any]]:
    for row in range(count):
        text = (
            f"Using the numbers {row % 97}, {row % 89} and {row}, reach {row % 1009}. Think first."
        )
        yield {
            "data_source": "countdown",
            "prompt": [{"role": "user", "content": text}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": str(row % 1009)},
            "extra_info": {"index": row},
        }


def anonymous_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("this system does not say how much memory a process holds")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prompts", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--prompts", type=int, default=10_000_000)
    parser.add_argument("--row-group", type=int, default=1024, help="rows in a Parquet row group")
    options = parser.parse_args(arguments)
    console = Console()
    with tempfile.TemporaryDirectory() as folder, Progress(console=console) as progress:
        file = Path(folder) / "prompts.parquet"
        writing = progress.add_task("writing", total=options.prompts)
        opening = progress.add_task("opening", total=options.prompts)
        counted = progress.track(rows(options.prompts), task_id=writing)
        write_prompts(file, counted, row_group_size=options.row_group)
        before, began = anonymous_mb(), time.perf_counter()
        table = PromptTable.open(
            file, progress=lambda done, total: progress.update(opening, completed=done, total=total)
        )
        opened, held = time.perf_counter() - began, anonymous_mb() - before
        began = time.perf_counter()
        table.fingerprint  # noqa: B018  computed when first asked for
        fingerprinted = time.perf_counter() - began
        rng = np.random.default_rng(0)
        seconds = []
        for _ in range(REPEATS):
            ids = rng.choice(table.ids, BATCH, replace=False)
            began = time.perf_counter()
            table.texts(ids)
            seconds.append(time.perf_counter() - began)
        size = file.stat().st_size / 1e6
    low, middle, high = np.quantile(seconds, [0.1, 0.5, 0.9])
    console.print(
        f"{options.prompts:,} prompts, {size:,.0f} MB, row groups of {options.row_group:,}\n"
        f"open and check every row   {opened:.1f} s, {held:,.0f} MB held\n"
        f"fingerprint                {fingerprinted:.2f} s\n"
        f"texts of {BATCH} random ids   {middle:.3f} s (10% to 90%: {low:.3f} to {high:.3f})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
