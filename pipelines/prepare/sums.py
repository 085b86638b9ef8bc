"""Plain arithmetic such as "38 + 57 =", answered in a few tokens: for small pretrained models on a CPU.

No prompt occurs twice. Prompts go round the levels that are asked for; one that has no more of its own is
passed over.
"""

import argparse
import random
from collections.abc import Iterator, Sequence

from rich.console import Console

from dps_ray.tasks import sums
from pipelines.prepare.distinct import by_level
from pipelines.prepare.output import add_output
from pipelines.prepare.rows import Row, add_sizes, write_generated

TEMPLATES = {
    "bare": "{} =",
    "question": "What is {}?",
    "number": "What is {}? Answer with the number only.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_output(parser)
    add_sizes(parser, train=2000, test=256)
    parser.add_argument(
        "--levels",
        nargs="+",
        choices=sums.LEVELS,
        default=list(sums.LEVELS),
        metavar="LEVEL",
        help=f"the kinds of problem, the digit for digits; all as a rule: {', '.join(sums.LEVELS)}",
    )
    parser.add_argument(
        "--style",
        choices=TEMPLATES,
        default="bare",
        help="; ".join(f"{name}: '{text.format('38 + 57')}'" for name, text in TEMPLATES.items()),
    )


def run(options: argparse.Namespace, console: Console) -> None:
    write_generated(options, console, rows(options.seed, options.levels, options.style))


def rows(seed: int, levels: Sequence[str], style: str) -> Iterator[Row]:
    """Rows without a split, in the order of a seed, until there are no more."""
    rng = random.Random(seed)
    sizes = {name: sums.distinct_problems(sums.LEVELS[name]) for name in levels}
    for name, problem in by_level(sizes, lambda name: sums.make_problem(sums.LEVELS[name], rng)):
        yield {
            "data_source": "sums",
            "prompt": [{"role": "user", "content": TEMPLATES[style].format(problem)}],
            "ability": "arithmetic",
            "reward_model": {"style": "rule", "ground_truth": str(sums.result(problem))},
            "extra_info": {"level": name},
        }
