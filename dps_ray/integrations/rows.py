"""`PromptSampler` over the rows of a framework's dataset: rows out, rewards of single responses in."""

import io
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dps_ray.errors import CheckpointError, ConfigError, SamplerError
from dps_ray.sampler.prompt_sampler import PromptSampler

logger = logging.getLogger(__name__)

PACKED = "prompt_sampler"

BY_TICK = sys.maxsize
"""For `batch`: a step closes by `tick` alone. So it has all groups of a step of the policy, those that were filtered included."""


class RowSampler:
    """Chooses rows of a dataset.

    Args:
        count: how many rows the dataset has.
        column: returns the values of a column, by its name.
        group_size: how many responses a prompt usually gets.
        options: what a user sets. `key` and `kinds` name columns: distinct values by which rows are known in a checkpoint
            (without it their numbers, which must then stay the same), and what is alike. The others are arguments of
            `PromptSampler`.
        defaults: arguments of `PromptSampler` where the user sets none.

    Raises:
        ConfigError: an option cannot be used.
        SamplerError: the values of `key` are not distinct.
    """

    def __init__(
        self,
        count: int,
        column: Callable[[str], Iterable[Any]],
        group_size: int,
        options: Mapping[str, Any],
        **defaults: Any,
    ) -> None:
        given = {**defaults, **options}
        key, kinds = given.pop("key", None), given.pop("kinds", None)
        group_size = given.pop("group_size", group_size)
        keys: Sequence[Any] = range(count) if key is None else list(column(key))
        alike = None if kinds is None else list(column(kinds))
        try:
            self.sampler = PromptSampler(keys, group_size, kinds=alike, **given)
        except SamplerError as error:
            named = f"key={key}, kinds={kinds}"
            raise SamplerError(f"{error} (columns of the dataset: {named})") from None
        self._keys = keys
        self._rows = None if key is None else {each: row for row, each in enumerate(keys)}

    def __len__(self) -> int:
        return len(self._keys)

    def take(self, n: int) -> list[int]:
        """Returns the numbers of `n` rows, which are in flight from now on."""
        keys = self.sampler.take(n)
        return keys if self._rows is None else [self._rows[key] for key in keys]

    def report(
        self,
        rows: Sequence[int],
        rewards: Sequence[float],
        accuracies: Sequence[float] | None = None,
    ) -> None:
        """Takes in responses, in any order: the row of each, its reward (NaN: it failed), and its accuracy in [0, 1]."""
        self.sampler.report(
            [self._keys[row] for row in rows],
            [[reward] for reward in rewards],
            None if accuracies is None else [[accuracy] for accuracy in accuracies],
        )

    def tick(self) -> None:
        """Closes a step: beliefs in all rows move on by one."""
        self.sampler.tick()

    def release(self, rows: Sequence[int] | None = None) -> None:
        """Gives back rows that will not be reported. None: all that are in flight."""
        self.sampler.release(None if rows is None else [self._keys[row] for row in rows])

    def metrics(self) -> dict[str, float]:
        """Returns the sampler's metrics, each named `dps/...`."""
        return {f"dps/{name}": value for name, value in self.sampler.metrics().items()}

    def state_dict(self) -> dict[str, Any]:
        """Returns the state: NumPy arrays, numbers and strings."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any], *, continues: bool = False) -> None:
        """Goes on from a state; `continues`: the framework continues the rollouts that were in flight."""
        found = self.sampler.load_state_dict(state, continues=continues)
        logger.info(
            "beliefs resumed: %d prompts known, %d added, %d dropped, %d freed",
            *(found.known, found.added, found.dropped, found.freed),
        )


def packed(state: Mapping[str, Any]) -> dict[str, bytes]:
    """Returns a state as the bytes of an .npz file, which `torch.load` reads with `weights_only` too."""
    file = io.BytesIO()
    np.savez(file, **state)
    return {PACKED: file.getvalue()}


def unpacked(state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what `packed` was given.

    Raises:
        CheckpointError: the state is of something else.
    """
    if PACKED not in state:
        raise CheckpointError(
            f"this is no state of selected prompts: it has {', '.join(state) or 'no entries'}; give what state_dict returned"
        )
    with np.load(io.BytesIO(state[PACKED])) as arrays:
        return dict(arrays)


def column(dataframe: Any, name: str) -> list[Any]:
    """Returns a column of a `datasets.Dataset`, or an entry of a column of dictionaries, such as `extra_info.level`.

    Raises:
        ConfigError: there is no such column or entry.
    """
    first, *inner = name.split(".")
    if first not in dataframe.column_names:
        raise ConfigError(
            f"there is no column {name!r} to take kinds or keys from; the data has {', '.join(dataframe.column_names)}"
        )
    values = list(dataframe[first])
    for part in inner:
        for row, value in enumerate(values):
            if not isinstance(value, Mapping) or part not in value:
                raise ConfigError(f"{name}: row {row} has no entry {part!r}, but {value!r}")
        values = [value[part] for value in values]
    return values
