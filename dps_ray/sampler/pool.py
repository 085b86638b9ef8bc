"""The prompts that a sampler selects from: those of its keys, and observed ones whose keys are gone."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dps_ray.errors import SamplerError
from dps_ray.sampler.keys import KeyTable
from dps_ray.selection.clusters import Clusters, number_within

_NONE = np.empty(0, dtype=np.int64)

Kind = str | int


def kinds_of(
    table: KeyTable,
    keys: Iterable[Hashable],
    kinds: Mapping[Hashable, Kind] | Sequence[Kind] | None,
) -> list[Kind] | None:
    """Returns the kind of each prompt, in the order of the table's ids; None: there are no kinds.

    kinds: one for each key in the order of `keys`, or by key.

    Raises:
        SamplerError: a key has no kind, or a kind is neither a string nor an integer.
    """
    if kinds is None:
        return None
    if isinstance(kinds, Mapping):
        missing = [key for key in keys if key not in kinds]
        if missing:
            raise SamplerError(f"kinds has nothing for the key {missing[0]!r}; give each key one")
        given = [kinds[key] for key in keys]
    else:
        given = kinds.tolist() if isinstance(kinds, np.ndarray) else list(kinds)
    if len(given) != len(table):
        raise SamplerError(f"{len(table)} keys came with {len(given)} kinds; give each key one")
    wrong = [kind for kind in given if not isinstance(kind, (str, int))]
    if wrong:
        raise SamplerError(f"the kind {wrong[0]!r} is neither a string nor an integer")
    return [given[place] for place in table.order.tolist()]


def among(ids: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each id is one of these, which are ascending: bool (n,)."""
    if not len(known):
        return np.zeros(len(ids), dtype=bool)
    found: NDArray[np.bool_] = known.take(np.searchsorted(known, ids), mode="clip") == ids
    return found


class Pool(NamedTuple):
    """What a selector is made over. It does not depend on the order of keys.

    ids:    int64 (N,), ascending
    labels: int32 (N,), the kind of each; all 0 where there are no kinds
    names:  of the kinds, by label
    gone:   int64, ascending, ids of prompts that were observed and whose keys are not in the pool any more; they are in `ids`, and
            are never selected
    last:   int64, ids of prompts that come last in their kind, as they were observed before the pool changed
    """

    ids: NDArray[np.int64]
    labels: NDArray[np.int32]
    names: list[Kind]
    gone: NDArray[np.int64] = _NONE
    last: NDArray[np.int64] = _NONE

    @classmethod
    def of(cls, table: KeyTable, kinds: list[Kind] | None, known: Sequence[Kind] = ()) -> "Pool":
        """Returns the pool of these keys, whose kinds are numbered after those that are `known`."""
        if kinds is None:
            return cls(table.ids, np.zeros(len(table), np.int32), list(known))
        new = sorted(set(kinds) - set(known), key=lambda kind: (isinstance(kind, str), kind))
        names = [*known, *new]
        number = {name: label for label, name in enumerate(names)}
        return cls(table.ids, np.array([number[kind] for kind in kinds], np.int32), names)

    def after(self, before: "Pool", observed: NDArray[np.int64]) -> "Pool":
        """Returns this pool with what an earlier one leaves to it, whose prompts with these ids were observed."""
        gone = np.sort(observed[~among(observed, self.ids)])
        ids = np.concatenate([self.ids, gone])
        labels = np.concatenate(
            [self.labels, before.labels[np.searchsorted(before.ids, gone)]]
        ).astype(np.int32)
        order = np.argsort(ids)
        whole = self._replace(ids=ids[order], labels=labels[order], gone=gone, last=before.last)
        same = np.array_equal(whole.ids, before.ids) and np.array_equal(whole.labels, before.labels)
        return whole if same else whole._replace(last=observed)

    def clusters(self, seed: int) -> Clusters:
        """Returns the kinds as clusters, with each prompt's number in its own."""
        return number_within(self.ids, self.labels, seed, self.last)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """How many prompts that can be selected each kind has: int64 (C,)."""
        here = ~among(self.ids, self.gone)
        return np.bincount(self.labels[here], minlength=len(self.names)).astype(np.int64)

    def kinds(self, ids: NDArray[np.int64]) -> NDArray[np.int32]:
        """Returns the label of each of these prompts of the pool: int32 (n,)."""
        return self.labels[np.searchsorted(self.ids, ids)]
