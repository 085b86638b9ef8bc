"""Paths as a user writes them, in which `~` means the home folder."""

import argparse
import os
from pathlib import Path


def expanded(text: str) -> str:
    """The path with a leading `~` or `~user` replaced by that home folder. Also accepts `file.py:function` and similar.

    Raises:
        ValueError: the user does not exist, or the text is empty.
    """
    if not text.strip():
        raise ValueError("is empty; write a path")
    path = os.path.expanduser(text)
    if path.startswith("~"):
        home = path.partition("/")[0]
        raise ValueError(f"there is no home folder {home}; a path of that name is written ./{path}")
    return path


def expanded_of_named(text: str) -> str:
    """As `expanded`, but in `NAME=PATH` it expands the path after the name."""
    name, separator, path = text.partition("=")
    if separator and "/" not in name and path.startswith("~"):
        return f"{name}={expanded(path)}"
    return expanded(text)


def path_option(text: str) -> Path:
    """Parses a path given as a program's option: a `type` for `argparse`."""
    try:
        return Path(expanded(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
