"""Rows of a data set that a `PromptSampler` selects, for trainers that replace the rows they were given."""

import logging
import os
import zipfile
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dps_ray.errors import CheckpointError, ConfigError
from dps_ray.sampler.prompt_sampler import PromptSampler, Resumed

STATE_FILE = "dps_sampler.npz"
"""In the folder of a checkpoint: the state of the sampler, which `numpy.load` reads without pickle."""

logger = logging.getLogger(__name__)


class RowData(Protocol):
    """What is needed of a data set; `datasets.Dataset` has it."""

    @property
    def column_names(self) -> list[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any) -> Any: ...


class DatasetRows:
    """Selects rows of a data set by a `PromptSampler`, and keeps its state in the folders of checkpoints.

    Args:
        data: the rows.
        group_size: how many responses a row gets.
        keys: what a prompt is known by: the name of a column, or a value for each row. None: the number of the row.
        kinds: what is alike: the name of a column, or a value for each row.
        arguments: the other arguments of `PromptSampler`.

    Raises:
        ConfigError: there is no such column, or an argument is wrong.
        SamplerError: keys or kinds cannot be used, such as a key that occurs twice.
    """

    def __init__(
        self,
        data: RowData,
        group_size: int,
        *,
        keys: str | Sequence[Hashable] | None = None,
        kinds: str | Sequence[str | int] | None = None,
        **arguments: Any,
    ) -> None:
        self._data = data
        named = range(len(data)) if keys is None else _values(data, "keys", keys)
        alike = None if kinds is None else _values(data, "kinds", kinds)
        self.sampler = PromptSampler(named, group_size, kinds=alike, **arguments)
        self._row_of = None if keys is None else {key: row for row, key in enumerate(named)}

    def read(self, keys: Sequence[Hashable], columns: Sequence[str]) -> list[dict[str, Any]]:
        """Returns these columns of the rows with these keys, as torch's DataLoader fetches rows: a dict for each key."""
        numbers = list(keys) if self._row_of is None else [self._row_of[key] for key in keys]
        together = getattr(self._data, "__getitems__", None)
        found = together(numbers) if together else [self._data[number] for number in numbers]
        return [{name: row[name] for name in columns} for row in found]

    # --- keeping ----------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Writes the state into the folder of a checkpoint, which is made if it is not there."""
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{STATE_FILE}.part"
        with part.open("wb") as file:
            np.savez(file, **self.sampler.state_dict())
        os.replace(part, folder / STATE_FILE)

    def load(self, folder: Path) -> Resumed | None:
        """Goes on from the state in the folder of a checkpoint. Returns None, and changes nothing, where it has none.

        Raises:
            CheckpointError: the file is damaged, or was made with another method or other settings.
        """
        path = folder / STATE_FILE
        if not path.exists():
            return None
        try:
            with np.load(path) as file:
                state = dict(file)
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise CheckpointError(
                f"{path} is damaged ({error}); resume from another checkpoint, or delete the file to select anew"
            ) from error
        found = self.sampler.load_state_dict(state)
        logger.info("%s: %s", path, found)
        return found


def _values(data: RowData, argument: str, given: str | Sequence[Any]) -> Sequence[Any]:
    """The values of the column of this name, or those that were given."""
    if not isinstance(given, str):
        if len(given) != len(data):
            raise ConfigError(
                f"{argument} has {len(given)} values for {len(data)} rows; give one for each row, or name a column"
            )
        return given
    if given not in data.column_names:
        raise ConfigError(
            f"{argument}={given!r}: the data set has no such column; it has {', '.join(data.column_names)}"
        )
    return list(data[given])
