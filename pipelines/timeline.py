"""Writes a run's timeline as a trace file: `python -m pipelines.timeline RUN_FOLDER`.

Open the trace in Perfetto (https://ui.perfetto.dev) or chrome://tracing. `pipelines/monitoring/timeline.py` describes it.
"""

import argparse
import sys
from collections.abc import Sequence

from dps_ray.errors import DPSError
from dps_ray.paths import path_option
from pipelines.command.exits import refused
from pipelines.monitoring.timeline import TIMELINE, write_trace


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.timeline",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run_folder", type=path_option, help=f"a folder with {TIMELINE}")
    try:
        print(write_trace(parser.parse_args(arguments).run_folder))
    except DPSError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        return refused(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
