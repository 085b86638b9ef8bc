"""The state of a sampler as a file in the folder of a framework's checkpoint."""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dps_ray.errors import CheckpointError

STATE_FILE = "dps_sampler.npz"
"""Its name. `numpy.load` reads it without pickle."""


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Writes the file, and the folder where it is not there. A process killed meanwhile leaves no half of a file."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{STATE_FILE}.part"
    with part.open("wb") as file:
        np.savez(file, **state)
    os.replace(part, folder / STATE_FILE)


def read_state(folder: Path) -> dict[str, Any] | None:
    """Returns what was written; None: the folder has no such file.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return None
    try:
        with np.load(path) as file:
            return dict(file)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}); resume from another checkpoint, or delete the file to begin without observations"
        ) from error
