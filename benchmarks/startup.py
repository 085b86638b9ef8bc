"""Seconds from the command to the first selection, for pools of 10^5 to 10^7 prompts with texts.

    python -m benchmarks.startup --folder bench/startup
    python -m benchmarks.startup --folder bench/startup --prompts 100000 --repeats 1 --quick

Every start is a process of its own (benchmarks/startup_once.py), which goes the way of `pipelines.grpo_dps` with the
real tokenizer of SmolLM2-135M, up to the point where engines and learner would get the first batch:

    cold      nothing is in dps_ray's cache; the files are in the operating system's
    warm      the same command again
    resume    from a checkpoint in which 100,000 prompts were observed, warm
    upfront   data.measure=upfront, cold: every prompt is tokenized at the start (not at 10^7; with --quick, 10^5 alone)

Files of prompts (0.5 GB for 10^7), the model, checkpoints and caches stay in --folder.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from benchmarks.spread import spread
from benchmarks.startup_data import PoolFiles, pool_files
from dps_ray.errors import ModelError
from dps_ray.paths import path_option

SIZES = [10**5, 10**6, 10**7]
WAYS = ("cold", "warm", "resume", "upfront")
OBSERVED = 100_000  # prompts, in the checkpoint that is resumed
_LONGEST_UPFRONT = 10**6  # 10^7 prompts would take an hour
PARTS = ("imports", "checks", "prompts", "Ray", "shards", "first selection")


class Start(NamedTuple):
    """One start, as benchmarks/startup_once.py measured it."""

    seconds: float
    parts: dict[str, float]
    peak_mib: float
    """Of the driver, with pages of files that it maps."""
    own_mib: float
    """Of the driver, without these pages, at the first selection."""
    cpu_seconds: float
    """Of the driver."""
    prompts: int
    selected: list[int]


class Place(NamedTuple):
    """Where the pool of a benchmark is, and what its runs write."""

    folder: Path
    model: Path
    files: PoolFiles

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def start(self, run: Path, overrides: Sequence[str], cache: Path, observe: int = 0) -> Start:
        """Starts a run in this folder, in a new process.

        Args:
            cache: the user's cache folder.
            observe: prompts to observe before a checkpoint is written; 0 writes none.
        """
        result = run.parent / f".{run.name}.json"
        result.unlink(missing_ok=True)
        settings = [
            f"folder={run}",
            f"model.path={self.model}",
            f"data.train=[{','.join(map(str, self.files.train))}]",
            f"data.test={self.files.test}",
            "data.max_prompt_length=512",
            "loop.batch_size=256",
            "resources.rollout.gpus_per_engine=0",
            "resources.learner.gpus_per_rank=0",
            *overrides,
        ]
        program = [sys.executable, "-m", "benchmarks.startup_once"]
        asked = [str(time.time()), str(result), "--observe", str(observe), *settings]
        done = subprocess.run(
            [*program, *asked],
            env={**os.environ, "XDG_CACHE_HOME": str(cache)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode != 0:
            raise RuntimeError(f"a start failed:\n{done.stderr}")
        return Start(**json.loads(result.read_text()))


def measure(place: Place, way: str, overrides: Sequence[str], repeats: int) -> list[Start]:
    """Repeated starts of one way."""
    if way == "resume":
        run = checkpointed(place, overrides)
        return [place.start(run, overrides, place.cache) for _ in range(repeats)]
    found = []
    if way == "warm":
        _in_new_folders(place, overrides, place.cache)
    for _ in range(repeats):
        if way == "warm":
            found.append(_in_new_folders(place, overrides, place.cache))
        else:
            more = ["data.measure=upfront"] if way == "upfront" else []
            found.append(_in_new_folders(place, [*overrides, *more], None))
    return found


def _in_new_folders(place: Place, overrides: Sequence[str], cache: Path | None) -> Start:
    with tempfile.TemporaryDirectory(dir=place.folder) as folder:
        return place.start(Path(folder) / "run", overrides, cache or Path(folder) / "cache")


def checkpointed(place: Place, overrides: Sequence[str]) -> Path:
    """Returns the folder of a run with a checkpoint of `OBSERVED` observed prompts, made anew."""
    run = place.folder / "checkpointed"
    shutil.rmtree(run, ignore_errors=True)
    place.start(run, overrides, place.cache, observe=OBSERVED)
    return run


def model_folder(folder: Path, model: Path | None) -> Path:
    """Returns the folder of a model with SmolLM2's tokenizer, which is made if none is given.

    Raises:
        ModelError: it cannot be made; the error says what is missing.
    """
    from pipelines.data.prepare.smollm2 import convert, find_gguf

    made = folder / "smollm2"
    if model is not None or made.exists():
        return model or made
    aside = folder / ".smollm2"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        convert(find_gguf(), aside, "bfloat16")
    except ModelError as error:
        raise ModelError(f"{error}; or name the folder of another model with --model") from None
    aside.rename(made)
    return made


def table(rows: Sequence[tuple[str, str, Sequence[Start]]]) -> str:
    """Markdown with a row for each (prompts, way, repeated starts): medians, of the sum with lowest and highest."""
    lines = [
        f"| prompts | start | seconds | {' | '.join(PARTS)} | driver, MiB | without files, MiB |",
        f"|---:|---|---:|{'---:|' * (len(PARTS) + 2)}",
    ]
    for prompts, way, starts in rows:
        parts = [f"{np.median([start.parts[name] for start in starts]):.1f}" for name in PARTS]
        total = spread([start.seconds for start in starts], "{:.1f}")
        memory = [
            f"{np.median([getattr(start, name) for start in starts]):,.0f}"
            for name in ("peak_mib", "own_mib")
        ]
        lines.append(f"| {' | '.join([prompts, way, total, *parts, *memory])} |")
    return "\n".join(lines)


def parser_of(name: str, text: str) -> argparse.ArgumentParser:
    """The options that this benchmark shares with `benchmarks.elastic`."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=text)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--folder", type=path_option, required=True, help="folder for prompts, model and runs"
    )
    parser.add_argument(
        "--model", type=path_option, help="Hugging Face folder (default: SmolLM2-135M, made once)"
    )
    parser.add_argument("--repeats", type=int, default=3, help="starts of each kind (3)")
    parser.add_argument("--json", type=path_option, help="write every start to this file")
    parser.add_argument(
        "overrides", nargs="*", help="settings, such as method=dps resources.beliefs.shards=8"
    )
    return parser


DEFAULTS = (
    "method=dps_pooled",
    "selector.cluster_column=extra_info.level",
    "resources.beliefs.shards=4",
)


def main(arguments: Sequence[str]) -> int:
    parser = parser_of("startup", __doc__ or "")
    parser.add_argument("--prompts", type=int, nargs="+", default=SIZES, metavar="N")
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=WAYS)
    parser.add_argument("--quick", action="store_true", help="upfront at 100,000 prompts only")
    options = parser.parse_intermixed_args(arguments)
    console = Console(stderr=True)
    options.folder.mkdir(parents=True, exist_ok=True)
    try:
        model = model_folder(options.folder, options.model)
    except ModelError as error:
        parser.error(str(error))
    overrides = options.overrides or DEFAULTS
    rows: list[tuple[str, str, list[Start]]] = []
    for prompts in options.prompts:
        files = pool_files(options.folder, prompts, console.print)
        place = Place(options.folder, model, files)
        for way in options.ways:
            if way == "upfront" and prompts > (SIZES[0] if options.quick else _LONGEST_UPFRONT):
                continue
            console.print(f"{prompts:,} prompts, {way}")
            rows.append((f"{prompts:,}", way, measure(place, way, overrides, options.repeats)))
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(_as_json(rows), indent=1))
    return 0


def _as_json(rows: Sequence[tuple[str, str, Sequence[Start]]]) -> list[dict[str, Any]]:
    return [
        {"prompts": prompts, "way": way, **start._asdict()}
        for prompts, way, starts in rows
        for start in starts
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
