"""Seconds of a restart with another number of belief shards, and whether it selects the same prompts.

    python -m benchmarks.elastic --folder bench/startup
    python -m benchmarks.elastic --folder bench/startup --prompts 100000 --repeats 1

A run with 4 shards observes 100,000 prompts and writes a checkpoint. It is resumed with 8 shards, observes 100,000 more,
and is resumed with 3. Beside it the same run keeps its 4 shards. The seconds are from the command to the first
selection, as in `benchmarks.startup`; a driver that was killed needs the same. Exits with 1 if a selection differs.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from rich.console import Console

from benchmarks.startup import (
    DEFAULTS,
    OBSERVED,
    Place,
    Start,
    checkpointed,
    model_folder,
    parser_of,
    table,
)
from benchmarks.startup_data import pool_files

SHARDS = (4, 8, 3)


def restarts(
    place: Place, overrides: Sequence[str], shards: Sequence[int], repeats: int
) -> list[list[Start]]:
    """Repeated starts with each number of shards after the first, one after the other. Between them as many prompts are
    observed again."""
    first, *others = shards
    run = checkpointed(place, [*overrides, f"resources.beliefs.shards={first}"])
    kept = place.folder / "elastic"
    shutil.rmtree(kept, ignore_errors=True)
    run.rename(kept)
    found = []
    for index, count in enumerate(others):
        now = [*overrides, f"resources.beliefs.shards={count}"]
        found.append([place.start(kept, now, place.cache) for _ in range(repeats)])
        if index + 1 < len(others):
            place.start(kept, now, place.cache, observe=OBSERVED)
    return found


def main(arguments: Sequence[str]) -> int:
    parser = parser_of("elastic", __doc__ or "")
    parser.add_argument("--prompts", type=int, default=10**7, metavar="N")
    parser.add_argument("--shards", type=int, nargs="+", default=SHARDS)
    options = parser.parse_intermixed_args(arguments)
    if len(options.shards) < 2:
        parser.error("--shards: write the first number of shards and at least one other")
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    place = Place(
        folder,
        model_folder(folder, options.model),
        pool_files(folder, options.prompts, console.print),
    )
    overrides = options.overrides or DEFAULTS
    steady = [options.shards[0]] * len(options.shards)
    runs = [
        restarts(place, overrides, shards, options.repeats) for shards in (options.shards, steady)
    ]
    rows, same = [], True
    for shards, found in zip((options.shards, steady), runs, strict=True):
        for (before, after), starts in zip(pairwise(shards), found, strict=True):
            rows.append((f"{options.prompts:,}", f"{before} to {after} shards", starts))
    for changed, unchanged in zip(*runs, strict=True):
        same &= {tuple(start.selected) for start in (*changed, *unchanged)} == {
            tuple(unchanged[0].selected)
        }
    print(table(rows))
    print(f"selections are {'equal' if same else 'DIFFERENT'}")
    if options.json:
        options.json.write_text(
            json.dumps([{"way": way, **s._asdict()} for _, way, starts in rows for s in starts])
        )
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
