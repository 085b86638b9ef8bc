"""Prepares data in verl's Parquet schema, and models, for training.

    python -m pipelines.prepare countdown --out data/countdown --train 100000
    python -m pipelines.prepare math --from my_problems.jsonl --out data/mine
    python -m pipelines.prepare smollm2 --out models/smollm2

The output folder appears only when it is complete. The last lines of the output say what was written, and give a
command that trains on it. `python -m pipelines.prepare TASK --help` lists a task's options.
"""

import argparse
import signal
import sys
from collections.abc import Sequence

from rich.console import Console

from dps_ray.errors import DPSError
from pipelines.command.exits import refused
from pipelines.data.prepare import (
    arithmetic,
    calculator,
    cluster,
    countdown,
    geometry,
    guess_the_number,
    math,
    smollm2,
    sums,
    tiny_vision,
)

TASKS = {
    "countdown": (countdown, "reach a target from three or four numbers"),
    "countdown4": (countdown, "reach a target from four numbers"),
    "arithmetic": (arithmetic, "chains of arithmetic modulo 10, for the built-in start policy"),
    "calculator": (calculator, "expressions for the built-in environment of this name"),
    "guess_the_number": (guess_the_number, "ranges for the built-in environment of this name"),
    "math": (math, "problems with answers, from your own files"),
    "geometry": (geometry, "problems with pictures, generated or from your own file"),
    "sums": (sums, "plain arithmetic in few tokens, for small pretrained models"),
    "cluster": (cluster, "copies of your files with a column of cluster numbers"),
    "smollm2": (smollm2, "SmolLM2-135M-Instruct, a small real model, as a Hugging Face folder"),
    "tiny-vision": (
        tiny_vision,
        "a tiny random vision-language model, to test a pipeline with pictures",
    ),
}


def main(arguments: Sequence[str]) -> int:
    """Runs the program. Returns its exit code: 0 if finished, 2 if the input is wrong, 130 if interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    for name, (module, summary) in TASKS.items():
        task = tasks.add_parser(name, help=summary, description=f"{summary}.\n\n{module.__doc__}")
        task.formatter_class = argparse.RawDescriptionHelpFormatter
        module.add_arguments(task)
    options = parser.parse_args(arguments)
    try:
        TASKS[options.task][0].run(options, Console(soft_wrap=True, markup=False, highlight=False))
    except (DPSError, OSError) as error:  # OSError: a full disk, a folder without write permission
        return refused(error)
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)  # removes half-written files
    sys.exit(main(sys.argv[1:]))
