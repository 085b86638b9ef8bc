"""Output folders that appear completely or not at all."""

import argparse
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dps_ray.durable import local_files
from dps_ray.errors import DataError
from dps_ray.paths import path_option


@contextmanager
def whole_folder(out: Path, force: bool) -> Iterator[Path]:
    """Yields a temporary folder to write into; its files appear in `out` when the block ends without an error.

    The temporary folder is in `out` if that exists, otherwise in its closest existing parent. If an error
    or Ctrl-C ends the block, the temporary folder is deleted and `out` is unchanged. At the end the files
    are made durable. A new `out` then appears by a single rename; into an existing one the files are moved
    one by one.

    Raises:
        DataError: `out` is not a folder, is not writable, or already holds files and `force` is False. With `force`,
            files of the same names are replaced and others stay.
    """
    check_vacant(out, force)
    out = Path(os.path.abspath(out))
    there = out.is_dir()
    home = local_files.nearest(out)
    aside = home / f".preparing-{out.name}-{os.getpid()}"
    try:
        try:
            aside.mkdir()
        except OSError as error:
            raise DataError(
                f"--out {out}: {home} cannot be written to ({error.strerror}); name another folder"
            ) from error
        yield aside
        for file in aside.iterdir():
            local_files.sync(file)
        if there:
            for file in sorted(aside.iterdir()):
                os.replace(file, out / file.name)
            local_files.sync(out)
        else:
            local_files.sync(aside)
            local_files.make_folder(out.parent)
            aside.rename(out)
            local_files.sync(out.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def check_vacant(out: Path, force: bool) -> None:
    """Raises a DataError if output cannot go to this folder; see `whole_folder`."""
    nearest = local_files.nearest(out)
    if not nearest.is_dir():
        what = "is a file" if out.exists() else f"cannot be: {nearest} is a file"
        raise DataError(f"--out {out} {what}; name a folder")
    if not force and out.is_dir() and any(out.iterdir()):
        raise DataError(
            f"--out {out} holds files already; name another folder, or add --force to replace "
            "those of the same names"
        )


def add_output(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the output folder."""
    parser.add_argument(
        "--out", type=path_option, required=True, metavar="DIR", help="output folder"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="write into an output folder that holds files, replacing files of the same names",
    )
