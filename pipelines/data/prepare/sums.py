"""Plain arithmetic such as "What is 38 + 57?", with answers of a few tokens, for small pretrained models on a CPU.

No problem occurs twice. The levels take turns; a level that runs out of problems is skipped. With --shots N, each
problem follows N worked examples of its level, as turns of a conversation. That makes answers short, and small models
right far more often.
"""

import argparse
import random
from collections.abc import Iterator, Sequence

from rich.console import Console

from dps_ray.tasks import sums
from pipelines.data.prepare.distinct import by_level
from pipelines.data.prepare.output import add_output
from pipelines.data.prepare.rows import Row, add_sizes, write_generated

TEMPLATES = {
    "question": "What is {}?",
    "number": "What is {}? Answer with the number only.",
    "bare": "{} =",
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
        help="levels of problems, named by kind and number of digits (default: all): "
        f"{', '.join(sums.LEVELS)}",
    )
    parser.add_argument(
        "--style",
        choices=TEMPLATES,
        default="question",
        help="form of the problem (question): "
        + "; ".join(f"{name}: '{text.format('38 + 57')}'" for name, text in TEMPLATES.items()),
    )
    parser.add_argument(
        "--shots",
        type=int,
        choices=range(9),
        default=0,
        metavar="N",
        help="number of worked examples before each problem, 0 to 8 (0)",
    )


def run(options: argparse.Namespace, console: Console) -> None:
    stream = rows(options.seed, options.levels, options.style, options.shots)
    write_generated(options, console, stream)


def rows(seed: int, levels: Sequence[str], style: str, shots: int) -> Iterator[Row]:
    """Yields distinct rows, without a split, in an order fixed by the seed, until there are no more."""
    rng = random.Random(seed)
    examples = {name: _examples(name, shots, rng) for name in levels}
    sizes = {name: sums.distinct_problems(sums.LEVELS[name]) for name in levels}
    for name, problem in by_level(sizes, lambda name: sums.make_problem(sums.LEVELS[name], rng)):
        if problem in examples[name]:  # the prompt would contain its answer
            continue
        turns = [turn for example in examples[name] for turn in _turns(example, style)]
        yield {
            "data_source": "sums",
            "prompt": [*turns, *_turns(problem, style)[:1]],
            "ability": "arithmetic",
            "reward_model": {"style": "rule", "ground_truth": str(sums.result(problem))},
            "extra_info": {"level": name},
        }


def _examples(level: str, shots: int, rng: random.Random) -> list[str]:
    """Distinct example problems of a level, which precede each of its prompts."""
    found: dict[str, None] = {}
    while len(found) < shots:
        found[sums.make_problem(sums.LEVELS[level], rng)] = None
    return list(found)


def _turns(problem: str, style: str) -> list[dict[str, str]]:
    """A problem as two messages: the question and its right answer."""
    result = sums.result(problem)
    answer = str(result) if style == "number" else f"{problem} = {result}"
    return [
        {"role": "user", "content": TEMPLATES[style].format(problem)},
        {"role": "assistant", "content": answer},
    ]
