"""The built-in data: made once from a seed, kept in a folder, in verl's schema like anyone's."""

import hashlib
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dps_ray.errors import ConfigError
from dps_ray.prompt_files import write_prompts
from dps_ray.tasks import arithmetic, countdown
from dps_ray.tasks.countdown import PromptStyle

Row = dict[str, Any]


def cache() -> Path:
    """Where built-in data and the start policy are kept: `dps_ray` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dps_ray"


def ensure_arithmetic(
    folder: Path, seed: int = 0, pool: int = 3300, test: int = 440
) -> tuple[Path, Path]:
    """The paths of training and test prompts of the arithmetic chains, made if not there.

    No prompt occurs twice, so none of the test in the training pool either. Prompts go round the
    20 levels; a level that has no more of its own is passed over (chains of one sum: 80 prompts,
    of which the test takes its share first), so the others have a few more.
    """
    return _ensure(folder, "arithmetic", _distinct_chains(random.Random(seed)), pool, test)


def ensure_countdown(
    folder: Path, seed: int = 0, pool: int = 2000, test: int = 512, style: PromptStyle = "chat"
) -> tuple[Path, Path]:
    """The paths of training and test prompts of Countdown, made if not there; none occurs twice."""
    problems = _distinct_countdowns(random.Random(seed), style)
    return _ensure(folder, "countdown", problems, pool, test)


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
        split: [_in_split(next(problems), split, index) for index in range(size)]
        for split, size in (("test", test), ("train", pool))
    }
    # Named by a hash of the rows: files of an older generator are never taken for today's.
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:12]
    files = {split: folder / f"{name}-{digest}" / f"{split}.parquet" for split in rows}
    for split, file in files.items():
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_prompts(file, rows[split])
    return files["train"], files["test"]


def _in_split(row: Row, split: str, index: int) -> Row:
    return {**row, "extra_info": {"split": split, "index": index, **row["extra_info"]}}


def _distinct_chains(rng: random.Random) -> Iterator[Row]:
    seen: dict[arithmetic.Level, set[str]] = {level: set() for level in arithmetic.LEVELS}
    while True:
        for level, prompts in seen.items():
            if len(prompts) == arithmetic.distinct_problems(level):
                continue
            prompt = arithmetic.make_problem(level, rng)
            while prompt in prompts:
                prompt = arithmetic.make_problem(level, rng)
            prompts.add(prompt)
            yield {
                "data_source": "arithmetic",
                "prompt": [{"role": "user", "content": prompt}],
                "ability": "arithmetic",
                "reward_model": {
                    "style": "rule",
                    "ground_truth": arithmetic.demonstration(prompt),
                },
                "extra_info": {"level": str(level)},
            }


def _distinct_countdowns(rng: random.Random, style: PromptStyle) -> Iterator[Row]:
    seen = set()
    while True:
        problem = countdown.make_problem(rng)
        key = (problem.target, *sorted(problem.numbers))
        if key in seen:
            continue
        seen.add(key)
        yield {
            "data_source": "countdown",
            "prompt": countdown.prompt_messages(problem, style),
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": countdown.ground_truth(problem)},
            "extra_info": {"numbers": len(problem.numbers)},
        }
