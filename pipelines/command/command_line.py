"""What programs with many settings have in common: `--config FILE key=value ...`, exit codes, how they end."""

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
    program: str, description: str, kind: type[Settings], arguments: Sequence[str]
) -> argparse.Namespace:
    """`config`, `print_config` and `overrides`, as they were given.

    Args:
        program: as in `python -m pipelines.<program>`.
        kind: what --help lists.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m pipelines.{program}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="settings:\n" + "\n".join(_help_lines(kind)),
    )
    parser.add_argument(
        "--config", metavar="FILE", help="YAML file, or the name of one in dps_ray/configs"
    )
    parser.add_argument(
        "--print-config", action="store_true", help="show the resulting configuration and exit"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, see below")
    return parser.parse_args(arguments)


def exit_code(work: Callable[[], object], when_stopped: str) -> int:
    """Do the work of a program. 0: done, or stopped by SIGTERM. 2: what was asked for is wrong, or what failed
    cannot be mended; said in a line. 130: interrupted.

    Args:
        when_stopped: what is said then.
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
    """End the process at once: Ray gives a job 3 s to stop, of which taking the interpreter apart would use 2."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def permanent(folder: Path) -> Path:
    """The folder's absolute path.

    Raises:
        ConfigError: it would be in the copy of --working-dir that Ray makes for a job, and removes after it.
    """
    if not folder.is_absolute() and "working_dir_files" in Path.cwd().parts:
        raise ConfigError(
            f"folder={folder} is relative, and this job works in a copy that Ray removes: give an absolute "
            f"one, such as folder={Path.home() / folder}; on several nodes, one that all of them share"
        )
    return folder.absolute()


def _help_lines(kind: type[Settings]) -> Iterator[str]:
    for key, type_, default, description in settings.describe(kind):
        yield f"  {key}={default}  ({type_})"
        yield from (f"      {line.strip()}" for line in description.splitlines())
