"""Shared parts of programs with many settings: the command line `--config FILE key=value ...`, exit codes, process
exit."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from dps_ray.config import Settings, settings
from dps_ray.errors import ConfigError, DPSError
from pipelines.command.exits import refused
from pipelines.command.stopping import StopRequested


def parse(
    program: str,
    description: str,
    kind: type[Settings],
    arguments: Sequence[str],
    add_options: Callable[[argparse.ArgumentParser], object] = lambda parser: None,
) -> argparse.Namespace:
    """Parses the command line to `config`, `print_config` and `overrides`.

    Args:
        program: the program's name, as in `python -m pipelines.<program>`.
        kind: the settings that --help lists.
        add_options: adds the options that only this program has.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m pipelines.{program}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="settings:\n" + "\n".join(_help_lines(kind)),
    )
    parser.add_argument(
        "--config", metavar="FILE", help="YAML file, or the name of a file in dps_ray/configs"
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the resulting configuration and exit"
    )
    add_options(parser)
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="settings that override the file; listed below",
    )
    return parser.parse_args(arguments)


def seeds_option(text: str) -> list[int]:
    """Parses seeds given as a program's option: a `type` for `argparse`."""
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write whole numbers, such as 0,1,2") from None


def exit_code(work: Callable[[], object], when_stopped: str) -> int:
    """Runs a program's work and returns its exit code.

    0: finished, or stopped by SIGTERM. 2: a DPSError or a file error; its message is printed in one line.
    130: interrupted.

    Args:
        when_stopped: text printed after a stop.
    """
    try:
        work()
    except (DPSError, OSError) as error:
        return refused(error)
    except (StopRequested, KeyboardInterrupt) as stop:
        print(f"stopped ({stop}); {when_stopped}", file=sys.stderr)
        return 0 if isinstance(stop, StopRequested) and stop.signal == signal.SIGTERM else 130
    return 0


def leave(code: int) -> NoReturn:
    """Ends the process without interpreter shutdown, which takes 2 of the 3 s that Ray gives a job to stop."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def permanent(folder: Path) -> Path:
    """The folder's absolute path.

    Raises:
        ConfigError: the folder would be in the copy of --working-dir that Ray makes for a job and deletes after it.
    """
    if not folder.is_absolute() and "working_dir_files" in Path.cwd().parts:
        raise ConfigError(
            f"folder={folder} is relative, and this job runs in a copy of the working directory that Ray deletes: "
            f"give an absolute path, such as folder={Path.home() / folder}; on several nodes, a shared folder"
        )
    return folder.absolute()


def _help_lines(kind: type[Settings]) -> Iterator[str]:
    for key, type_, default, description in settings.describe(kind):
        yield f"  {key}={default}  ({type_})"
        yield from (f"      {line.strip()}" for line in description.splitlines())
