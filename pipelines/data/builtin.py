"""The built-in data sets, generated once from a seed and kept in a folder, in verl's schema like any other data."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dps_ray.durable import local_files
from dps_ray.errors import ConfigError, ResourceError, mendable
from dps_ray.paths import expanded
from dps_ray.prompts.files import write_prompts
from dps_ray.tasks.countdown import PromptStyle
from pipelines.data.prepare import arithmetic, calculator, countdown, guess_the_number
from pipelines.data.prepare.rows import Row, in_split

_ROOM = 8 << 20  # bytes of free space required; the start policy needs half of it


def cache() -> Path:
    """The folder of built-in data and the start policy: `dps_ray` in the user's cache folder."""
    return Path(expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "dps_ray"


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Wraps a block that writes built-in files into this folder, and explains errors of the file system.

    Raises:
        ResourceError: the folder is full or not writable.
    """
    try:
        local_files.prove_writable(folder, _ROOM)
        yield
    except OSError as error:
        raise ResourceError(
            f"built-in data and the start policy are kept in {folder}, which cannot be written to: {mendable(error)}; "
            "set XDG_CACHE_HOME to a folder that is writable"
        ) from error


def ensure_arithmetic(
    folder: Path, seed: int = 0, pool: int = 3300, test: int = 440
) -> tuple[Path, Path]:
    """The paths of the training and test prompts of the arithmetic chains, which are generated if missing.

    No prompt occurs twice, so no test prompt is in the training pool. The 20 levels take turns. A
    level that runs out of prompts is skipped, and the other levels get a few more: chains of one sum
    have 80 prompts, and the test set takes its share of these first.
    """
    return _ensure(folder, "arithmetic", arithmetic.rows(seed), pool, test)


def ensure_countdown(
    folder: Path, seed: int = 0, pool: int = 2000, test: int = 512, style: PromptStyle = "chat"
) -> tuple[Path, Path]:
    """The paths of Countdown's training and test prompts, which are generated if missing. No prompt occurs twice."""
    return _ensure(folder, "countdown", countdown.rows(seed, style), pool, test)


def ensure_calculator(
    folder: Path, seed: int = 0, pool: int = 3000, test: int = 350
) -> tuple[Path, Path]:
    """The paths of the training and test prompts of the environment `calculator`, which are generated if missing. No prompt
    occurs twice."""
    return _ensure(folder, "calculator", calculator.rows(seed), pool, test)


def ensure_guess_the_number(
    folder: Path, seed: int = 0, pool: int = 2500, test: int = 330
) -> tuple[Path, Path]:
    """The paths of the training and test prompts of the environment `guess_the_number`, which are generated if missing. No
    prompt occurs twice, so a range with a number of guesses has one secret number."""
    return _ensure(folder, "guess_the_number", guess_the_number.rows(seed), pool, test)


_MAKERS = {
    "builtin:arithmetic": ensure_arithmetic,
    "builtin:countdown": ensure_countdown,
    "builtin:calculator": ensure_calculator,
    "builtin:guess_the_number": ensure_guess_the_number,
}


def ensure(source: str, key: str) -> tuple[Path, Path]:
    """The paths of the training and test prompts of built-in data such as `builtin:arithmetic`, which are generated if
    missing.

    key: the setting that names the data, for the error message.

    Raises:
        ConfigError: there is no such built-in data.
    """
    if source not in _MAKERS:
        raise ConfigError(
            f"{key}={source}: there is no such built-in data; built in are {', '.join(_MAKERS)}"
        )
    return _MAKERS[source](cache())


def _ensure(
    folder: Path, name: str, problems: Iterator[Row], pool: int, test: int
) -> tuple[Path, Path]:
    # Both splits come from one stream without repeats, the test split first.
    rows = {
        split: [in_split(next(problems), split, index) for index in range(size)]
        for split, size in (("test", test), ("train", pool))
    }
    # Folders are named by a hash of the rows, so files of an older generator are never reused by mistake.
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:12]
    files = {split: folder / f"{name}-{digest}" / f"{split}.parquet" for split in rows}
    for split, file in files.items():
        if not file.exists():
            with kept_in(folder):
                file.parent.mkdir(parents=True, exist_ok=True)
                write_prompts(file, rows[split])
    return files["train"], files["test"]
