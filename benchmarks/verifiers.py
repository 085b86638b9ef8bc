"""How fast the verifiers are, and how far they agree:  python -m benchmarks.verifiers [--math FOLDER]

Speed is of one process, which is pinned to one core: responses of some 600 characters, half of them right, as a run
has them, in groups of 8 of one prompt. `bare` is the function alone, by processor time, and `sandbox` the process of a
run's verifier, by the clock. Then 2,048 responses of all tasks with several such processes.

Agreement is that of the mathematics and geometry verifiers, and of the published string-normalising grader
(`benchmarks/string_grader.py`), with the tables of equal and unequal answers in tests/data, and with the
reference answers of MATH500, which come from `test_math.json` in FOLDER: a list of objects with an "answer".
"""

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, pairwise
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.spread import spread
from benchmarks.string_grader import same_text
from dps_ray.config import VerifierSettings
from dps_ray.paths import path_option
from dps_ray.prompts.dataset import Prompt
from dps_ray.rewards import sandboxed
from dps_ray.rewards.sandbox import Sandbox
from dps_ray.tasks import arithmetic, compute_score, countdown
from tests.dps_ray.answer_tables import Row, rows

THOUGHTS = "First I look at what is given, and then I try what follows from that. " * 8
REPEATS, GROUP, PARALLEL = 3, 8, 2048


class Group(NamedTuple):
    prompt: Prompt
    texts: list[str]


# --- responses ------------------------------------------------------------------------------------


def boxed(answer: str) -> str:
    return rf"<think>{THOUGHTS}</think> So the answer is \boxed{{{answer}}}."


def group(source: str, number: int, truth: Any, right: list[str], wrong: list[str]) -> Group:
    """Half of the responses are right ones and half wrong ones, in turn."""
    texts = [
        text for _, *pair in zip(range(GROUP // 2), cycle(right), cycle(wrong)) for text in pair
    ]
    return Group(Prompt(number, [], source, truth, {}, []), texts)


def arithmetic_groups(count: int, rng: random.Random) -> Iterator[Group]:
    for number in range(count):
        chain = arithmetic.make_problem(rng.choice(arithmetic.LEVELS), rng)
        right = arithmetic.demonstration(chain)
        yield group("arithmetic", number, right, [right], [right[:-2] + "x;"])


def countdown_groups(count: int, rng: random.Random) -> Iterator[Group]:
    for number in range(count):
        problem = countdown.make_problem(rng)
        right, wrong = (
            f"<think>{THOUGHTS}</think><answer>{text}</answer>"
            for text in (problem.solution, " + ".join(map(str, problem.numbers)))
        )
        yield group("countdown", number, countdown.ground_truth(problem), [right], [wrong])


def table_groups(cases: list[Row], count: int, rng: random.Random) -> Iterator[Group]:
    """Right answers in the forms of the table, wrong ones from the table and of other rows."""
    truths = sorted({case.reference for case in cases})
    for number in range(count):
        truth = rng.choice(truths)
        right = [c.answer for c in cases if c.reference == truth and c.equal] or [truth]
        wrong = [c.answer for c in cases if c.reference == truth and not c.equal]
        wrong += rng.sample([other for other in truths if other != truth], GROUP // 2)
        yield group("math", number, truth, [boxed(a) for a in right], [boxed(a) for a in wrong])


def figure_groups(count: int, rng: random.Random) -> Iterator[Group]:
    """Lengths such as 3\\sqrt{34}, given exactly, rounded, and wrongly."""
    for number in range(count):
        factor, square = rng.randint(2, 99), rng.randint(2, 999)
        length = factor * square**0.5
        right = [
            rf"{factor} \sqrt {{{square}}}",
            rf"\sqrt{{{factor**2 * square}}}",
            f"{length:.2f}",
        ]
        wrong = [rf"{factor + 1}\sqrt{{{square}}}", f"{1.01 * length:.2f}", f"{length:.0f}0 cm"]
        texts = [[boxed(answer) for answer in answers] for answers in (right, wrong)]
        yield group("geometry", number, rf"{factor}\sqrt{{{square}}}", *texts)


def reference_groups(answers: list[str], count: int, rng: random.Random) -> Iterator[Group]:
    """Right answers as the data set writes them, wrong ones of other problems."""
    for number in range(count):
        truth, *others = rng.sample(answers, 1 + GROUP // 2)
        yield group("math", number, truth, [boxed(truth)], [boxed(a) for a in others])


# --- speed ----------------------------------------------------------------------------------------


def bare(groups: list[Group]) -> None:
    for prompt, texts in groups:
        for text in texts:
            compute_score(prompt.data_source, text, prompt.ground_truth)


def in_sandboxes(groups: list[Group], processes: int) -> float:
    """Seconds, once the sandboxes have loaded what they need."""
    with ThreadPoolExecutor(processes) as threads:
        sandboxes = [Sandbox(None, VerifierSettings(), 60.0) for _ in range(processes)]

        def score(sandbox: Sandbox, part: list[Group]) -> None:
            for prompt, texts in part:
                sandbox.score(prompt, texts)

        parts = [groups[i::processes] for i in range(processes)]
        list(threads.map(score, sandboxes, [part[:10] for part in parts]))
        began = time.perf_counter()
        list(threads.map(score, sandboxes, parts))
        took = time.perf_counter() - began
        for sandbox in sandboxes:
            sandbox.close()
    return took


def processor_seconds(run: Callable[[], None]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def speeds(name: str, groups: list[Group]) -> list[str]:
    """A row: responses a second of the bare function, and in a sandbox."""
    responses = GROUP * len(groups)
    alone = [responses / processor_seconds(lambda: bare(groups)) for _ in range(REPEATS)]
    boxed_in = [responses / in_sandboxes(groups, 1) for _ in range(REPEATS)]
    return [name, spread(alone, "{:,.0f}"), spread(boxed_in, "{:,.0f}")]


# --- agreement ------------------------------------------------------------------------------------


def count(cases: list[Row], found: dict[Row, bool]) -> list[str]:
    """How many equal answers are found equal, and unequal ones unequal."""
    return [
        f"{sum(found[c] == equal for c in chosen)} of {len(chosen)}" if chosen else "-"
        for equal in (True, False)
        for chosen in [[c for c in cases if c.equal == equal]]
    ]


def agreement(title: str, source: str, cases: list[Row], console: Console) -> None:
    """Prints a table by kind of answer, and where ours is wrong."""
    shown = Table(title=title, title_justify="left")
    for column in ("answers", "equal: ours", "unequal: ours", "equal: text", "unequal: text"):
        shown.add_column(column)

    ours = {c: compute_score(source, boxed(c.answer), c.reference)["acc"] == 1 for c in cases}
    text = {c: same_text(c.reference, c.answer) for c in cases}
    kinds = list(dict.fromkeys(case.kind for case in cases))
    for kind in [*kinds, "all"] if len(kinds) > 1 else kinds:
        chosen = [case for case in cases if kind in (case.kind, "all")]
        shown.add_row(kind, *count(chosen, ours), *count(chosen, text))
    console.print(shown)
    for case in cases:
        if ours[case] != case.equal:
            found = "equal" if not case.equal else "unequal"
            console.print(escape(f"found {found}: {case.reference} and {case.answer}"))


def reference_cases(answers: list[str]) -> list[Row]:
    """Every reference answer with itself, and with the one of the next problem whose answer is another."""
    pairs = [*pairwise(answers), (answers[-1], answers[0])]
    return [
        *(Row("with themselves", a, a, True) for a in answers),
        *(Row("with another's", a, b, False) for a, b in pairs if a != b),
    ]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verifiers", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--math", type=path_option, help="the folder of test_math.json")
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2])
    options = parser.parse_args(arguments)
    console = Console(width=110)
    sandboxed.enter()  # this process does the comparing; whoever started it can end it
    equal, figures = rows("equal_answers"), rows("figure_answers")
    answers = []
    if options.math is not None:
        file = options.math / "test_math.json"
        if not file.is_file():
            parser.error(f"--math {options.math}: there is no {file}; name its folder")
        answers = [e["answer"] for e in json.loads(file.read_text())]

    rng = random.Random(0)
    groups = {
        "arithmetic": list(arithmetic_groups(256, rng)),
        "countdown": list(countdown_groups(256, rng)),
        "math, answers of the table": list(table_groups(equal, 256, rng)),
        "geometry, lengths": list(figure_groups(256, rng)),
    }
    if answers:
        groups["math, answers of MATH500"] = list(reference_groups(answers, 256, rng))
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    bare([each[0] for each in groups.values()])  # imports
    speed = Table(title="responses/s, one core", title_justify="left")
    for column in ("verifier", "bare", "sandbox"):
        speed.add_column(column)
    for name, chosen in groups.items():
        speed.add_row(*speeds(name, chosen))
    console.print(speed)
    os.sched_setaffinity(0, cores)
    mixed = [g for together in zip(*groups.values(), strict=True) for g in together]
    for processes in options.processes:
        took = in_sandboxes(mixed[: PARALLEL // GROUP], processes)
        console.print(f"{PARALLEL:,} responses of all tasks, {processes} processes: {took:.2f} s")

    agreement("tests/data/equal_answers.tsv", "math", equal, console)
    agreement("tests/data/figure_answers.tsv", "geometry", figures, console)
    if answers:
        agreement("the answers of MATH500", "math", reference_cases(answers), console)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
