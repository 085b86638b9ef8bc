"""Paths as a person writes them: `~` is the home folder."""

import argparse
import os
from pathlib import Path


def expanded(text: str) -> str:
    """The path with a leading `~` or `~user` replaced by that home folder; of `file.py:function` and the like too.

    Raises:
        ValueError: there is no such user, or the text is empty.
    """
    if not text.strip():
        raise ValueError("is empty; write a path")
    path = os.path.expanduser(text)
    if path.startswith("~"):
        home = path.partition("/")[0]
        raise ValueError(f"there is no home folder {home}; a path of that name is written ./{path}")
    return path


def expanded_of_named(text: str) -> str:
    """The same of `NAME=PATH`, where the path after a name is meant."""
    name, separator, path = text.partition("=")
    if separator and "/" not in name and path.startswith("~"):
        return f"{name}={expanded(path)}"
    return expanded(text)


def path_option(text: str) -> Path:
    """A path that a program is given as an option: a `type` for `argparse`."""
    try:
        return Path(expanded(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
