"""The prompts of `benchmarks.pretrained`: 2,000 to train on and 300 held out, of the task `sums`.

A prompt is one worked example and a problem of the same level, such as "6 + 6 = 12", a line break and "8 + 9 = ". A
response is then a number and whatever follows. One example is what SmolLM2-135M needs to answer with a number, and
more examples help little and cost time, because every response pays for its prompt.
"""

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from dps_ray.prompts.files import write_prompts
from dps_ray.tasks import sums
from pipelines.data.prepare.output import whole_folder
from pipelines.data.prepare.rows import Row, in_split

# Training prompts of each level. The test set has 15% of each. The numbers are such that the start policy solves a
# quarter of the prompts, and that its groups of 8 responses are mixed for nearly half of them (docs/pretrained.md).
LEVELS: Mapping[str, int] = {
    "sums-1": 360,
    "products-1": 240,
    "sums-2": 400,
    "three-1": 400,
    "differences-2": 300,
    "sums-3": 300,
}
_HELD_OUT = 0.15  # of prompts, and of problems
_MOST_PROBLEMS = 1000  # of a level


class Files(NamedTuple):
    train: Path
    test: Path


def write_pool(folder: Path, seed: int = 0) -> Files:
    """Writes train.parquet and test.parquet into a folder, the same for the same seed. Files of these names are
    replaced."""
    with whole_folder(folder, force=True) as new:
        for split, rows in pool(seed).items():
            write_prompts(
                new / f"{split}.parquet",
                (in_split(row, split, index) for index, row in enumerate(rows)),
            )
    return Files(folder / "train.parquet", folder / "test.parquet")


def pool(seed: int = 0) -> dict[str, list[Row]]:
    """Returns the rows of the splits `train` and `test`, each in random order.

    No prompt occurs twice. Problems of the test set do not occur in the training set, not even as examples. One-digit
    problems are few, so each of them occurs with several examples.
    """
    rng = random.Random(seed)
    splits: dict[str, list[Row]] = {"train": [], "test": []}
    for level, size in LEVELS.items():
        problems = _problems(sums.LEVELS[level], rng)
        held_out = round(_HELD_OUT * len(problems))
        test, train = problems[:held_out], problems[held_out:]
        splits["train"] += _rows(level, train, train, size, rng)
        splits["test"] += _rows(level, test, train, round(_HELD_OUT * size), rng)
    for rows in splits.values():
        rng.shuffle(rows)
    return splits


def _problems(level: sums.Level, rng: random.Random) -> list[str]:
    """Distinct problems of a level in random order: all of them, or `_MOST_PROBLEMS`."""
    found: dict[str, None] = {}
    while len(found) < min(sums.distinct_problems(level), _MOST_PROBLEMS):
        found[sums.make_problem(level, rng)] = None
    problems = list(found)
    rng.shuffle(problems)
    return problems


def _rows(
    level: str, problems: list[str], examples: list[str], size: int, rng: random.Random
) -> Iterator[Row]:
    """Yields rows of a level with distinct prompts. The problems take turns, each with a random example."""
    seen: set[tuple[str, str]] = set()
    while len(seen) < size:
        for problem in problems:
            example = rng.choice(examples)
            if len(seen) == size or example == problem or (example, problem) in seen:
                continue
            seen.add((example, problem))
            text = f"{example} = {sums.result(example)}\n{problem} = "
            yield {
                "data_source": "sums",
                "prompt": [{"role": "user", "content": text}],
                "ability": "arithmetic",
                "reward_model": {"style": "rule", "ground_truth": str(sums.result(problem))},
                "extra_info": {"level": level},
            }
