"""What a run knows of its prompts before its first step, by `selector.start`.

It is read and matched with the pool once, at the first start. Every checkpoint keeps it, so a continued run needs the file no
more:

    ckpt/e0007/step=00000040/start.arrow    groups by prompt id, and what they cost

Beliefs begin with it in shards that start without a checkpoint (`actors/belief_shard.py`); later it is in their state.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dps_ray.beliefs.states import Observation, states_of
from dps_ray.config import Config
from dps_ray.durable import (
    Manifest,
    Storage,
    Stored,
    checkpoint_folder,
    read_snapshot,
    write_snapshot,
)
from dps_ray.errors import CheckpointError, DataError
from dps_ray.prompts.dataset import PromptTable
from dps_ray.selection.evidence import Evidence
from dps_ray.selection.population import Population
from dps_ray.selection.settings import BeliefSettings, StartSettings
from pipelines.training.answers_before import Groups, read

FILE = "start.arrow"
Tell = Callable[[str], None]


@dataclass(eq=False)
class Start:
    """Evidence from before the run.

    rollouts, tokens: what the run is charged for it
    """

    evidence: Evidence
    rollouts: int
    tokens: int

    def of_beliefs(self, config: Config, population: Population) -> Evidence | None:
        """Returns the evidence of these prompts for a method whose beliefs begin with it; None for other methods."""
        if not isinstance(config.selector, BeliefSettings):
            return None
        return self.evidence.take(population.find(self.evidence.found.ids)[1])

    def saving(self, storage: Storage, folder: str) -> Callable[[], Sequence[Stored]]:
        """Returns a function that writes this into the folder of a checkpoint."""
        found = {f"found_{name}": column for name, column in self.evidence.found._asdict().items()}
        snapshot = {
            **{name: column for name, column in found.items() if column is not None},
            "ages": self.evidence.ages,
            "weight": self.evidence.weight,
            "rollouts": self.rollouts,
            "tokens": self.tokens,
        }
        return lambda: [write_snapshot(storage, f"{folder}/{FILE}", snapshot)]

    @classmethod
    def load(cls, storage: Storage, manifest: Manifest) -> "Start":
        """Returns what a checkpoint keeps.

        Raises:
            CheckpointError: the file is missing or altered.
        """
        path = f"{checkpoint_folder(manifest.epoch, manifest.step)}/{FILE}"
        stored = next((file for file in manifest.files if file.path == path), None)
        if stored is None:
            raise CheckpointError(f"checkpoint {manifest.name} does not name {path}")
        kept = read_snapshot(storage, stored)
        found = Observation._make(kept.get(f"found_{name}") for name in Observation._fields)
        return cls(Evidence(found, kept["ages"], kept["weight"]), kept["rollouts"], kept["tokens"])


def start_of(
    config: Config,
    table: PromptTable,
    ids: NDArray[np.int64],
    model: str,
    storage: Storage | None,
    base: Manifest | None,
    tell: Tell,
) -> Start | None:
    """Returns what the run knows before its first step; None without `selector.start`.

    Args:
        ids: int64, the prompts of `table` that the run uses.
        base: the checkpoint that the run continues from, which has it; None: it is read.

    Raises:
        DataError: `selector.start` cannot be read, or has no prompt of the pool.
        CheckpointError: the checkpoint, or a file of an earlier run, is damaged.
    """
    selector = config.selector
    if not isinstance(selector, StartSettings) or selector.start is None:
        return None
    if storage is not None and base is not None:
        return Start.load(storage, base)
    groups = read(Path(selector.start), config, model)
    places, wanted = matched(groups, table, ids)
    found = np.unique(places)
    if not len(found):
        raise DataError(
            f"selector.start={selector.start}: none of its {len(np.unique(groups.ids)):,} prompts is in "
            f"data.train={config.data.train}; evaluate the training data, with the same data.id_column"
        )
    tell(_said(groups, found, np.unique(wanted), len(ids)))
    for note in groups.notes:
        tell(f"selector.start: {note}")
    rollouts = tokens = 0
    if selector.charges_start:
        rollouts = int(groups.responses[found].sum(dtype=np.int64))
        tokens = int(groups.tokens[found].sum())
        tell(f"{rollouts:,} rollouts and {tokens:,} tokens of it are charged to the run")
    weight = selector.start_weight if isinstance(selector, BeliefSettings) else 1.0
    evidence = _evidence(groups, places, wanted, selector.learns_from_rewards, weight)
    return Start(evidence, rollouts, tokens)


def matched(
    groups: Groups, table: PromptTable, ids: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns which groups are of prompts of the pool, and these prompts: rows of `groups`, and int64 ids.

    A prompt is the same if id and content are. Otherwise all prompts with that content are the same; the id decides
    only where no content is known.
    """
    rows, here = table.find(groups.ids)
    same = here & (~groups.known | (table.contents[rows] == groups.contents))
    rest = np.flatnonzero(~same & groups.known)
    places, wanted = np.flatnonzero(same), groups.ids[same]
    if len(rest):
        order = np.argsort(table.contents, kind="stable")
        first, last = (
            np.searchsorted(table.contents, groups.contents[rest], side, sorter=order)
            for side in ("left", "right")
        )
        copies = last - first
        number = np.arange(copies.sum()) - (copies.cumsum() - copies).repeat(copies)
        places = np.concatenate([places, rest.repeat(copies)])
        wanted = np.concatenate([wanted, table.ids[order[first.repeat(copies) + number]]])
    if len(ids) < len(table):
        used = np.isin(wanted, ids)
        places, wanted = places[used], wanted[used]
    return places, wanted


def _evidence(
    groups: Groups,
    places: NDArray[np.int64],
    ids: NDArray[np.int64],
    with_rewards: bool,
    weight: float,
) -> Evidence:
    """These groups as evidence. If a prompt has several of one age, as when its text occurs twice, one counts."""
    order = np.lexsort((places, groups.ages[places], ids))
    ages = groups.ages[places[order]]
    new = np.append(True, (np.diff(ids[order]) != 0) | (np.diff(ages) != 0))
    rows, ids = places[order[new]], ids[order[new]]
    right, scored = groups.successes[rows], groups.responses[rows]
    means = deviations = None
    if with_rewards:
        means, deviations = groups.means[rows], groups.deviations[rows]
        if np.isnan(means).any():
            raise DataError(
                f"{groups.said} has no means and deviations of rewards, from which selector.observation=rewards learns: "
                "name an evaluation, or a run of a method that learns from rewards"
            )
    found = Observation(
        ids, states_of(right, scored), right, scored, means=means, deviations=deviations
    )
    return Evidence(found, groups.ages[rows], weight)


def _said(groups: Groups, found: NDArray[np.int64], ids: NDArray[np.int64], pool: int) -> str:
    all_, here = len(np.unique(groups.ids)), len(np.unique(groups.ids[found]))
    responses = int(groups.responses[found].sum(dtype=np.int64))
    rest = f"; {all_ - here:,} of its prompts match none" if here < all_ else ""
    return f"{groups.said} has {responses:,} responses to {len(ids):,} of {pool:,} prompts of the pool{rest}"
