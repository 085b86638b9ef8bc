"""The built-in data: made once from a seed, kept in a folder, in verl's schema like anyone's."""

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
from pipelines.data.prepare import arithmetic, countdown
from pipelines.data.prepare.rows import Row, in_split

_ROOM = 8 << 20  # bytes; the start policy has half of that


def cache() -> Path:
    """Where built-in data and the start policy are kept: `dps_ray` in the user's cache folder."""
    return Path(expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "dps_ray"


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Within, something is made that is kept in this folder.

    Raises:
        ResourceError: that failed for want of room or of permission.
    """
    try:
        local_files.prove_writable(folder, _ROOM)
        yield
    except OSError as error:
        raise ResourceError(
            f"built-in data and the start policy are kept in {folder}, which cannot be written to: {mendable(error)}; "
            "set XDG_CACHE_HOME to a folder that can"
        ) from error


def ensure_arithmetic(
    folder: Path, seed: int = 0, pool: int = 3300, test: int = 440
) -> tuple[Path, Path]:
    """The paths of training and test prompts of the arithmetic chains, made if not there.

    No prompt occurs twice, so none of the test in the training pool either. Prompts go round the
    20 levels; a level that has no more of its own is passed over (chains of one sum: 80 prompts,
    of which the test takes its share first), so the others have a few more.
    """
    return _ensure(folder, "arithmetic", arithmetic.rows(seed), pool, test)


def ensure_countdown(
    folder: Path, seed: int = 0, pool: int = 2000, test: int = 512, style: PromptStyle = "chat"
) -> tuple[Path, Path]:
    """The paths of training and test prompts of Countdown, made if not there; none occurs twice."""
    return _ensure(folder, "countdown", countdown.rows(seed, style), pool, test)


def ensure(source: str, key: str) -> tuple[Path, Path]:
    """The paths of training and test prompts of `builtin:arithmetic` or `builtin:countdown`, made if not there.

    key: the setting that names it, for the error.

    Raises:
        ConfigError: there is no such data.
    """
    makers = {"builtin:arithmetic": ensure_arithmetic, "builtin:countdown": ensure_countdown}
    if source not in makers:
        raise ConfigError(f"{key}={source}: built in are {', '.join(makers)}")
    return makers[source](cache())


def _ensure(
    folder: Path, name: str, problems: Iterator[Row], pool: int, test: int
) -> tuple[Path, Path]:
    # Both are drawn from one stream without repeats, the test first.
    rows = {
        split: [in_split(next(problems), split, index) for index in range(size)]
        for split, size in (("test", test), ("train", pool))
    }
    # Named by a hash of the rows: files of an older generator are never taken for today's.
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:12]
    files = {split: folder / f"{name}-{digest}" / f"{split}.parquet" for split in rows}
    for split, file in files.items():
        if not file.exists():
            with kept_in(folder):
                file.parent.mkdir(parents=True, exist_ok=True)
                write_prompts(file, rows[split])
    return files["train"], files["test"]
