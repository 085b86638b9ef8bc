"""A dataset for torch's loaders whose batches are of rows that a sampler chooses."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dps_ray.integrations.rows import RowSampler, packed, unpacked


class ChosenRows:
    """Stands before a dataset: whatever rows its loader asks for, it gets those that the sampler chooses.

    The loader must fetch in its own process (`num_workers=0`), as otherwise it asks ahead of the rewards. torchdata's
    StatefulDataLoader keeps the state in its own.

    Args:
        dataset: with a length, and rows by number.
        rows: the sampler over them. Report rewards to it, and call its `tick` once a step of the policy.
        mark: makes of an item and the number of its row the item that the loader gets, so that its rewards can be reported.
            None: the item as it is.
    """

    def __init__(
        self, dataset: Any, rows: RowSampler, mark: Callable[[Any, int], Any] | None = None
    ) -> None:
        self.dataset, self.rows, self._mark = dataset, rows, mark

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> Any:
        """Returns a row that is asked for by its number, which is not chosen."""
        return self.dataset[row]

    def __getitems__(self, asked: Sequence[int]) -> list[Any]:
        """Returns as many rows as are asked for. torch's loaders call this where there is one."""
        rows = self.rows.take(len(asked))
        items = [self.dataset[row] for row in rows]
        if self._mark is None:
            return items
        return [self._mark(item, row) for item, row in zip(items, rows, strict=True)]

    def __getattr__(self, name: str) -> Any:
        """Returns what the dataset has besides rows, such as its `collate_fn`."""
        if name == "dataset":  # while it is made or unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def state_dict(self) -> dict[str, bytes]:
        return packed(self.rows.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rows.load_state_dict(unpacked(state))
