"""What the methods share that give each prompt of the pool a score: the top of it, the checks, the snapshot.

A method is a score by prompt. It is dense, one number for each prompt of the shard, so choosing costs
O(N) a step (3 to 35 ms with 10^6 prompts); what is learned costs O(batch).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import isqrt
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dps_ray.beliefs.states import Observation
from dps_ray.hashing import hash_key
from dps_ray.selection.choice import Selection, check_size
from dps_ray.selection.draws import tempered
from dps_ray.selection.evidence import Evidence, held_by
from dps_ray.selection.outcomes import Outcomes, checked
from dps_ray.selection.pool.index import Positions, PromptIndex
from dps_ray.selection.pool.ranking import keys
from dps_ray.selection.selector import Context, Selector, check_settings
from dps_ray.selection.settings import SelectorSettings

Floats = NDArray[np.float64]

_TEMPERED = 0x74656D70  # keeps this draw apart from a method's own


class ScoredSelector(ABC):
    """Selects by (score descending, times sampled, seeded hash of the id); see `Selector`.

    A subclass says how a prompt is scored (`scores`) and what is learned (`learn`). To be bit-equal for
    any number of shards, both may use what is known of the prompt itself, the step, and what the whole step found.

    Args:
        ids: int64 (N,), unique, in any order.
        seed: orders equals, and keys all draws.

    Raises:
        ValueError: an id is not a 64-bit integer or stands twice.
    """

    class Settings(SelectorSettings):
        pass

    # What a snapshot holds, by the names of attributes: arguments of the constructor, numbers alike in
    # all shards, and arrays by position (there with a leading underscore) of the prompts seen.
    saved_settings: ClassVar[tuple[str, ...]] = ("seed",)
    saved_for_all: ClassVar[tuple[str, ...]] = ("step",)
    saved_by_prompt: ClassVar[tuple[str, ...]] = ("times",)
    learns_from_counts: ClassVar[bool] = False
    # Draws without replacement by weight score^(1 / temperature), for a score that is a probability; None
    # takes the best.
    temperature: float | None = None

    @classmethod
    def make(cls, ids: ArrayLike, settings: Any, context: Context) -> Selector:
        """Returns the selector over these prompts; see `Selector`."""
        return cls(ids, context.seed)

    def __init__(self, ids: ArrayLike, seed: int = 0) -> None:
        self.seed = int(seed)
        self.step = 0  # observes so far
        self._index = PromptIndex(ids, self.seed)
        self._ties = self._index.ties(np.arange(len(self)))
        self._times = np.zeros(len(self), dtype=np.int32)
        self._begun = np.zeros(len(self), dtype=np.bool_)  # there was evidence
        self._has_begun = False  # with evidence, in this shard or another

    def __len__(self) -> int:
        return len(self._index)

    # --- what a method is -------------------------------------------------------------------------

    @abstractmethod
    def scores(self) -> Floats:
        """The score of every prompt at this step, by position: float64 (N,), finite, not to be written in."""

    @abstractmethod
    def learn(self, seen: Outcomes) -> None:
        """Takes in one step; `self.step` is its number, from 1; `self._times` counts it not yet."""

    def _check(self, seen: Outcomes) -> None:  # noqa: B027, states and counts were checked
        """Raises ValueError when something is missing that the method learns from."""

    def _rescore(self, positions: Positions) -> None:  # noqa: B027, a method may keep no scores
        """Brings scores that are kept from step to step up to date: the state of these prompts is new."""

    def _predicted(self, positions: Positions) -> Floats:
        """P(unsolved), P(partial), P(solved) of these prompts: float64 (n, 3); NaN: predicts nothing."""
        return np.full((len(positions), 3), np.nan)

    def weaken(self, positions: Positions, weight: float) -> None:
        """Mixes what is believed of these prompts, with this weight, with what is believed of one never seen. `self.step` is
        the number of steps since the evidence began."""
        raise ValueError(f"{type(self).__name__} has no belief that could begin with evidence")

    def _ever_observed(self) -> Positions:
        """Prompts that were observed, in this run or before it."""
        return np.flatnonzero(self._begun | (self._times > 0))

    # --- the protocol -----------------------------------------------------------------------------

    def select(self, size: int, exclude: ArrayLike | None = None) -> Selection:
        """The `size` prompts with the largest score, best first, none of them in `exclude`.

        Raises ValueError when fewer than `size` are left to choose from, and for an id in `exclude` that
        is unknown or given twice.
        """
        excluded = self._index.distinct_positions([] if exclude is None else exclude)
        check_size(size, len(self), len(excluded))
        score = self.scores()
        if self.temperature is not None:
            key = hash_key(self.seed, self.step, _TEMPERED)
            score = tempered(score, self.temperature, self._ties, key)
        if len(excluded):
            score = score.copy()
            score[excluded] = -np.inf
        best = self._best(score, size)
        return Selection(
            ids=self._index.ids(best),
            predicted=self._predicted(best),
            score=score[best],
            times_sampled=self._times[best].astype(np.int64),
            tie=self._ties[best],
            behind=np.zeros(len(best)),
        ).ranked()

    def _best(self, score: Floats, size: int) -> Positions:
        """Positions of the `size` best, in no order."""
        if not size:
            return np.empty(0, dtype=np.int64)
        least = _largest(score, size)
        better, equal = np.flatnonzero(score > least), np.flatnonzero(score == least)
        missing = size - len(better)
        if missing < len(equal):  # positions are in the order of the hash
            equal = equal[np.argpartition(keys(self._times[equal], equal), missing - 1)[:missing]]
        return np.concatenate([better, equal])

    def observe(self, mine: Observation, whole: Observation | None = None) -> None:
        """Learns from one step of the whole pool; see `Selector.observe`.

        Raises ValueError, and changes nothing, when one of them cannot be right, or something is missing
        that the method learns from.
        """
        needs_counts = type(self).__name__ if self.learns_from_counts else None
        seen = checked(self._index, mine, whole, needs_counts)
        self._check(seen)
        self.step += 1
        self.learn(seen)
        self._times[seen.positions] += 1
        self._rescore(seen.positions)

    def begin(self, evidence: Evidence) -> None:
        """Begins with what is known before the first step; see `dps_ray.selection.evidence`."""
        needs_counts = type(self).__name__ if self.learns_from_counts else None
        for found in evidence.steps():
            seen = checked(self._index, held_by(self._index, found), found, needs_counts)
            self._check(seen)
            self.step += 1
            self.learn(seen)
            self._begun[seen.positions] = True
        begun = np.flatnonzero(self._begun)
        self.weaken(begun, evidence.weight)
        self.step, self._has_begun = 0, True
        self._rescore(begun)

    def times_sampled(self, ids: ArrayLike) -> NDArray[np.int64]:
        """At how many steps each id was observed: int64 (n,)."""
        return self._times[self._index.positions(ids)].astype(np.int64)

    def metrics(self) -> dict[str, float]:
        """How many prompts were ever sampled; shards may add theirs up."""
        return {"beliefs/prompts_seen": float(np.count_nonzero(self._times))}

    def snapshot(self) -> dict[str, Any]:
        """The whole state: settings, and what is known of the prompts ever observed."""
        seen = np.flatnonzero(self._times)
        begun = np.flatnonzero(self._begun & (self._times == 0))
        groups = {"seen": seen, "begun": begun} if self._has_begun else {"seen": seen}
        return {
            **{name: getattr(self, name) for name in (*self.saved_settings, *self.saved_for_all)},
            **({} if self.temperature is None else {"temperature": self.temperature}),
            **{f"{group}_ids": self._index.ids(of) for group, of in groups.items()},
            **{
                f"{group}_{name}": getattr(self, f"_{name}")[of]
                for group, of in groups.items()
                for name in self.saved_by_prompt
            },
        }

    def load_state(self, snapshot: Mapping[str, Any]) -> None:
        """Goes on from a snapshot, bit-equal; see `Selector.load_state`."""
        own = {name: getattr(self, name) for name in self.saved_settings}
        if self.temperature is not None:
            own["temperature"] = self.temperature
        check_settings(snapshot, own)
        seen = self._index.distinct_positions(snapshot["seen_ids"])
        for name in self.saved_for_all:
            setattr(self, name, snapshot[name])
        for name in self.saved_by_prompt:
            getattr(self, f"_{name}")[seen] = snapshot[f"seen_{name}"]
        self._has_begun = "begun_ids" in snapshot
        if self._has_begun:
            # These were not observed by this run, so they may be gone from the pool.
            positions, here = self._index.find(np.asarray(snapshot["begun_ids"]))
            for name in self.saved_by_prompt:
                values = np.asarray(snapshot[f"begun_{name}"])
                getattr(self, f"_{name}")[positions[here]] = values[here]
            self._begun[positions[here]] = True
        self._rescore(self._ever_observed())


def _largest(values: Floats, rank: int) -> np.float64:
    """The `rank`-th largest value, counted from 1.

    The `rank`-th largest of the maxima of blocks is no larger than it, and fewer than `rank` blocks hold
    anything above that, so few values are left to look at. `np.partition` on all of them takes 15 times as
    long where many are equal, as prompts never seen are.
    """
    block = isqrt(len(values) // rank)
    maxima = np.maximum.reduceat(values, np.arange(0, len(values), block))
    least: np.float64 = np.partition(maxima, len(maxima) - rank)[len(maxima) - rank]
    above = values[values > least]
    if len(above) < rank:
        return least
    exact: np.float64 = np.partition(above, len(above) - rank)[len(above) - rank]
    return exact
