"""Data in verl's Parquet schema, and models, ready to train on.

    python -m pipelines.prepare countdown --out data/countdown --train 100000
    python -m pipelines.prepare math --from my_problems.jsonl --out data/mine
    python -m pipelines.prepare smollm2 --out models/smollm2

What is written appears under its name when it is complete; the last lines say what it is, and the command
that trains on it. `python -m pipelines.prepare TASK --help` lists a task's options.
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
    cluster,
    countdown,
    geometry,
    math,
    smollm2,
    sums,
    tiny_vision,
)

TASKS = {
    "countdown": (countdown, "reach a target from three or four numbers"),
    "countdown4": (countdown, "reach a target from four numbers"),
    "arithmetic": (arithmetic, "chains of arithmetic modulo 10, for the built-in start policy"),
    "math": (math, "problems with answers from files of your own"),
    "geometry": (geometry, "problems with pictures, drawn, or from a file of your own"),
    "sums": (sums, "plain arithmetic in few tokens, for small pretrained models"),
    "cluster": (cluster, "a column that says which prompts are of a kind, in copies of your files"),
    "smollm2": (smollm2, "SmolLM2-135M-Instruct, a small real model, as a Hugging Face folder"),
    "tiny-vision": (
        tiny_vision,
        "a tiny random model that is shown pictures, to try a pipeline with",
    ),
}


def main(arguments: Sequence[str]) -> int:
    """The exit code: 2 when something is wrong with the input, 130 when interrupted."""
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
    except (DPSError, OSError) as error:  # a full disk, a folder that is not ours
        return refused(error)
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)  # so that half-written files are removed
    sys.exit(main(sys.argv[1:]))
