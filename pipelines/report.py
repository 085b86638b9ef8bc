"""Writes the report of a run folder: `python -m pipelines.report RUN_FOLDER`.

`--screenshot FILE.png` also saves a picture of the whole page, as shown in the documentation.
"""

from __future__ import annotations

import argparse
import sys

from dps_ray.errors import DPSError
from dps_ray.paths import path_option
from pipelines.command.exits import refused
from pipelines.monitoring.report.browser import screenshot
from pipelines.monitoring.report.build import build_report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pipelines.report", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("run_folder", type=path_option, help="a folder with metrics.jsonl")
    parser.add_argument(
        "--screenshot",
        type=path_option,
        metavar="FILE.png",
        help="also save a picture of the page to this file; needs selenium and Chromium",
    )
    parser.add_argument(
        "--width",
        type=int,
        default=1200,
        help="width of the picture in pixels (default: %(default)s)",
    )
    arguments = parser.parse_args()
    try:
        report = build_report(arguments.run_folder)
        print(report)
        if arguments.screenshot:
            screenshot(report, arguments.screenshot, arguments.width)
            print(arguments.screenshot)
    except DPSError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        return refused(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
