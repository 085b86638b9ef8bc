"""What a run knows of its prompts, kept in every checkpoint, so that the pool may grow between runs.

    ckpt/e0007/step=00000040/pool.arrow     files of the pool; ids and contents of the prompts that the run has observed

A resumed run compares this with its data. Prompts that were observed must be there, unchanged (`check_pool`); any others
may come and go. Beliefs are known by prompt id, so they need nothing more. Only `dps_pooled` numbers the prompts of each
cluster, and numbers those in `last` so that they come after all others (`number_within`).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dps_ray.durable import (
    Manifest,
    Storage,
    Stored,
    checkpoint_folder,
    committed,
    read_snapshot,
    write_snapshot,
)
from dps_ray.errors import CheckpointError
from dps_ray.hashing import as_ids, hash_key, hash_rows
from dps_ray.prompts.dataset import FileRecord, PromptTable
from pipelines.training.checkpoint import check_data

FILE = "pool.arrow"
_POPULATION = 0x706F70756C6174  # makes these hashes independent of others
_NAMED = 3  # files named in a message
_NONE = np.empty(0, dtype=np.int64)


@dataclass(eq=False)
class PoolRecord:
    """The pool of a run, and which of its prompts the run has observed.

    files: path, rows and digest of each file
    prompts: how many the pool has
    population: digest of the pool's ids, clusters and sources, whatever their order
    cluster_names: the name of each cluster, by its number; empty for a method without clusters
    last: int64, the prompts that come after all others of their cluster: those observed before the pool changed
    known_ids, known_contents: int64 (n,), ascending by id: the prompts observed so far, and the hash of each one's content
    aside: int64, the prompts that were drawn and cannot be used, as the beliefs were told
    """

    files: tuple[FileRecord, ...]
    prompts: int
    population: str
    cluster_names: tuple[str, ...] = ()
    last: NDArray[np.int64] = field(default_factory=lambda: _NONE)
    known_ids: NDArray[np.int64] = field(default_factory=lambda: _NONE)
    known_contents: NDArray[np.int64] = field(default_factory=lambda: _NONE)
    aside: NDArray[np.int64] = field(default_factory=lambda: _NONE)

    @classmethod
    def of(
        cls,
        files: Sequence[FileRecord],
        ids: NDArray[np.int64],
        labels: NDArray[np.integer] | None = None,
        sources: NDArray[np.integer] | None = None,
        cluster_names: Sequence[str] = (),
        before: "PoolRecord | None" = None,
    ) -> Self:
        """Returns the record of a pool for a run that continues from the record `before`, or starts.

        ids: int64 (N,), in any order; labels, sources: (N,), the cluster and the source of each prompt, where the method
            or the run has them.
        """
        population = population_of(ids, labels, sources)
        found = cls(
            tuple(files),
            len(ids),
            population,
            tuple(cluster_names),
        )
        if before is not None:
            same = before.population == population
            changed = np.union1d(before.known_ids, before.aside)
            found.last = before.last if same else changed
            found.known_ids, found.known_contents = before.known_ids, before.known_contents
            found.aside = before.aside
        return found

    def observe(
        self, ids: NDArray[np.int64], contents: NDArray[np.int64], unusable: ArrayLike = ()
    ) -> None:
        """Adds the prompts of a step, int64 ids (n,) without duplicates, the hashes of their contents, and the ids of the
        prompts that were found unusable."""
        self.aside = np.union1d(self.aside, as_ids(unusable))
        places = np.searchsorted(self.known_ids, ids)
        known = np.zeros(len(ids), dtype=np.bool_)
        if len(self.known_ids):
            known = self.known_ids.take(places, mode="clip") == ids
        new = np.flatnonzero(~known)
        new = new[np.argsort(ids[new])]
        self.known_ids = np.insert(self.known_ids, places[new], ids[new])
        self.known_contents = np.insert(self.known_contents, places[new], contents[new])

    def rewind(self, storage: Storage, manifest: Manifest | None, table: PromptTable) -> None:
        """Goes back to the prompts that the run had observed at a checkpoint; None is its beginning.

        Raises:
            CheckpointError: a file that says which they are is missing or altered.
        """
        self.known_ids = self.known_contents = self.aside = _NONE
        if manifest is None:
            return
        then = PoolRecord.load(storage, manifest)
        if then is not None:
            self.known_ids, self.known_contents = then.known_ids, then.known_contents
            self.aside = then.aside
            return
        # Earlier versions wrote no record. Their log has the ids, and their data is unchanged.
        steps = [_NONE, *(observation.ids for _, observation in committed(storage, manifest))]
        ids = np.unique(np.concatenate(steps))
        self.observe(ids, table.contents[table.find(ids)[0]])

    def saving(self, storage: Storage, folder: str) -> Callable[[], list[Stored]]:
        """Returns a function that writes the record as it is now into the folder of a checkpoint."""
        now = replace(self)  # arrays are replaced and never changed
        return lambda: [now.save(storage, folder)]

    def save(self, storage: Storage, folder: str) -> Stored:
        """Writes the record into the folder of a checkpoint."""
        return write_snapshot(storage, f"{folder}/{FILE}", vars(self))

    @classmethod
    def load(cls, storage: Storage, manifest: Manifest) -> Self | None:
        """Returns the record of a checkpoint; None if an earlier version wrote it, which had none.

        Raises:
            CheckpointError: the file is missing or altered.
        """
        path = f"{checkpoint_folder(manifest.epoch, manifest.step)}/{FILE}"
        stored = next((file for file in manifest.files if file.path == path), None)
        if stored is None:
            return None
        kept = read_snapshot(storage, stored)
        kept["files"] = tuple(FileRecord(*file) for file in kept["files"])
        kept["cluster_names"] = tuple(kept["cluster_names"])
        return cls(**kept)


def population_of(
    ids: NDArray[np.int64],
    labels: NDArray[np.integer] | None = None,
    sources: NDArray[np.integer] | None = None,
) -> str:
    """Returns the digest of a pool's ids with their clusters and sources, whatever their order: 126 bits, as hex digits."""
    columns = [column for column in (labels, sources) if column is not None]
    given = labels is not None, sources is not None
    return "".join(
        f"{hash_rows(hash_key(_POPULATION, half, *given), ids, *columns):016x}" for half in (0, 1)
    )


def numbered_as(
    before: Sequence[str], labels: NDArray[np.integer], names: Sequence[str]
) -> tuple[NDArray[np.int32], list[str]]:
    """Returns labels and names of clusters in which a cluster of `before` keeps its number. New names follow.

    before: names in the order of their numbers, as a checkpoint has them; empty where there is none.
    labels, names: int (N,) and the name of each number, of the present pool.
    """
    numbers = {name: number for number, name in enumerate(before)}
    for name in names:
        numbers.setdefault(name, len(numbers))
    renumbered = np.array([numbers[name] for name in names], dtype=np.int32)
    return renumbered[labels], list(numbers)


def check_pool(
    storage: Storage,
    manifest: Manifest,
    table: PromptTable,
    source: Any,
    ids: NDArray[np.int64] | None = None,
) -> PoolRecord | None:
    """Checks that a checkpoint can be continued with this data. Returns its record; None if an earlier version wrote it.

    Args:
        source: data.train, for the message.
        ids: int64, the prompts of `table` that the run uses; None: all of them.

    Raises:
        CheckpointError: prompts that the run has observed are gone or have changed.
    """
    record = PoolRecord.load(storage, manifest)
    if record is not None:
        check_known(record, table, source, ids)
    else:
        check_data(manifest, table.fingerprint, source)
    return record


def check_known(
    record: PoolRecord, table: PromptTable, source: Any, ids: NDArray[np.int64] | None = None
) -> None:
    """As `check_pool`, of a record."""
    known = record.known_ids
    if not len(known):
        return
    rows, found = table.find(known)
    changed = found.copy()
    changed[found] = table.contents[rows[found]] != record.known_contents[found]
    unused = np.zeros_like(found)
    if ids is not None and len(ids) < len(table):
        unused = found & ~np.isin(known, ids)
    of = f"of {len(known):,} prompts that this run has observed"
    remedy = "to continue, or name another folder to start anew"
    for wrong, said, mend in (
        (
            ~found,
            f"are not in data.train={source}: their rows were taken out or changed",
            f"put them back {remedy}",
        ),
        (changed, f"have another content in data.train={source}", f"change them back {remedy}"),
        (
            unused,
            f"are no longer in the sample that data.train_max_samples draws from data.train={source}",
            f"take the added files out {remedy}",
        ),
    ):
        if wrong.any():
            first = int(known[np.argmax(wrong)])
            place = f", in {table.place(first)}" if found[np.argmax(wrong)] else ""
            raise CheckpointError(
                f"{np.count_nonzero(wrong):,} {of} {said}; the first is prompt {first}{place}; {mend}"
            )


def changes(before: PoolRecord, now: PoolRecord) -> list[str]:
    """Returns what has changed from one pool to the next, as lines for a person; none if nothing has.

    Files are compared by content. One that was renamed or copied has not changed.
    """
    came = _others(now.files, before.files)
    gone = _others(before.files, now.files)
    rows_before = {path: rows for path, rows, _ in gone}
    changed = [file for file in came if file[0] in rows_before]
    lines = [
        f"{path} has changed: {rows_before[path]:,} prompts before, {rows:,} now"
        for path, rows, _ in changed
    ]
    paths = {path for path, _, _ in changed}
    for files, said in ((came, "came to data.train"), (gone, "left data.train")):
        rest = [file for file in files if file[0] not in paths]
        if rest:
            lines.append(f"{_counted(rest)} {said}: {_named(rest)}")
    if before.population == now.population:
        return [*lines, "the prompts are the same"] if lines else []
    if now.prompts != before.prompts:
        lines.append(f"the pool had {before.prompts:,} prompts, and has {now.prompts:,}")
    else:
        lines.append(
            f"the pool has {now.prompts:,} prompts as before; which ones, their clusters or their sources have changed"
        )
    new = [name for name in now.cluster_names if name not in set(before.cluster_names)]
    if new:
        lines.append(f"{len(new)} new clusters: {_listed(new)}")
    kept = f"of {len(now.known_ids):,} prompts all that is known is kept"
    return [*lines, f"{kept}; the others count as never seen"]


def _others(files: Sequence[FileRecord], than: Sequence[FileRecord]) -> list[FileRecord]:
    """The files whose contents are not among those of the others, as often as they occur."""
    left, found = Counter(digest for _, _, digest in than), []
    for file in files:
        if left[file[2]]:
            left[file[2]] -= 1
        else:
            found.append(file)
    return found


def _counted(files: Sequence[FileRecord]) -> str:
    return f"{len(files)} file{'s' if len(files) > 1 else ''}"


def _named(files: Sequence[FileRecord]) -> str:
    return _listed([f"{path} ({rows:,} prompts)" for path, rows, _ in files])


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
