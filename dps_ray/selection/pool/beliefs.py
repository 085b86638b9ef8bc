"""The beliefs of a pool of prompts, at a cost that does not grow with the pool.

The belief of a prompt that is not rolled out decays: its evidence goes to zero, and its belief converges to the one
that all unseen prompts share. Once it is there to within a tolerance, the prompt is *idle* and needs no row. So there
are three kinds of prompts:

    moving    observed in the last few dozen steps: a row of its own                   O(moving) a step
    idle      never seen, or forgotten: one shared belief, and an order to draw from   O(batch) a step
    resting   with decay 1 alone, where nothing is forgotten: a prompt whose belief has come to the
              fixed point of its own transitions keeps its row and stands still        O(batch) a step

How many are moving depends on the batch and the decay, not on the pool: some thousands with decay 0.7 and 256 prompts a
step. `hmm.step` updates their rows, as it would update all prompts in an eager sweep. The rows, 144 bytes each, stay in
the processor's cache, and most of the time of a step is the fixed cost of calls into NumPy. An idle prompt costs 17 bytes, and up to 15 more once it has been sampled. Measured in
docs/performance.md.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dps_ray.beliefs import hmm, settling
from dps_ray.beliefs.hmm import Beliefs, Floats
from dps_ray.beliefs.priors import initial_belief, prior_counts
from dps_ray.beliefs.states import Observation, check_states
from dps_ray.selection.evidence import Evidence, held_by
from dps_ray.selection.pool.growing import GrowingArray
from dps_ray.selection.pool.index import Positions, PromptIndex
from dps_ray.selection.pool.lazy_order import LazyOrder
from dps_ray.selection.pool.ranking import keys, keys_of, positions_of, ranks, scores
from dps_ray.selection.pool.rows import Content, RowTable
from dps_ray.selection.selector import check_settings
from dps_ray.selection.signal import Signal

# Steps between checks for settled prompts. Prompts keep their rows a little longer than needed, since a check costs half
# as much as a step.
_SETTLE_EVERY = 8


class PoolBeliefs:
    """Beliefs over solve states for every prompt of a pool, or of a shard of it, in the order of their scores.

    The arguments are those of `dps_ray.BeliefStore`, which chooses by these beliefs.
    """

    def __init__(
        self,
        ids: ArrayLike | PromptIndex,
        decay: float,
        prior: str | ArrayLike,
        initial: ArrayLike | None,
        seed: int,
        tolerance: float,
        entropy_weight: float,
        signal: Signal | None = None,
    ) -> None:
        self._decay = within("decay", decay, 0, 1)
        self._tolerance = within("tolerance", tolerance, 0, 1)
        self._entropy_weight = within("entropy_weight", entropy_weight, -1e6, 1e6)
        self._signal = signal or Signal()
        self._prior = prior_counts(prior)
        self._initial = initial_belief(initial)
        self._least_evidence = settling.least_evidence(self._prior, self._decay, self._tolerance)
        self._shortest_wait = settling.shortest_wait(self._least_evidence, self._decay)
        self.index = ids if isinstance(ids, PromptIndex) else PromptIndex(ids, seed)
        if self.index.seed != seed:
            raise ValueError(f"the index was made with seed {self.index.seed}, not {seed}")

        self._step = 0
        self._shared = hmm.initial_beliefs(1, self._initial)
        # By position in the pool, so that to look a prompt up is one access.
        self._times = np.zeros(len(self), dtype=np.int32)
        self._slots = np.zeros(len(self), dtype=np.int32)  # which have a row; see `RowTable`
        self._moving, self._resting = RowTable(self._slots, 1), RowTable(self._slots, -1)
        self._idle_order = LazyOrder(np.int64, len(self), self._never_seen)  # of keys
        self._resting_order = LazyOrder(np.complex128)  # of ranks
        self._seen = GrowingArray(np.int32)  # positions of all prompts ever observed

    def __len__(self) -> int:
        return len(self.index)

    # --- learning ---------------------------------------------------------------------------------

    def observe(self, mine: Observation, whole: Observation | None = None) -> None:
        """Learns from one step of the whole pool: the solve states of `mine`. Without prompts, all forget a little.

        Raises ValueError, and changes nothing, for an id that is unknown or given twice, for a state that is none, and
        when the score needs counts that are missing.
        """
        positions = self.index.distinct_positions(mine.ids)
        seen = check_states(mine.states, len(positions))
        self._signal = self._signal.after(mine if whole is None else whole)
        self._wake(positions)
        _, rows = self._moving.find(positions)
        self._step += 1
        self._times[positions] += 1
        key = keys(self._times[positions], positions)
        moved = hmm.step(self._moving.beliefs, rows, seen, self._prior, self._decay)
        for present, new in zip(self._moving.beliefs, moved, strict=True):
            present[...] = new
        self._moving.ranks.imag[rows] = key
        self._moving.ranks.real[:] = -self._scores(moved.predicted)
        self._moving.seen_at[rows] = self._step
        self._shared = hmm.drift(self._shared, self._prior)
        if self._step % _SETTLE_EVERY == 0:
            if self._decay < 1:
                self._let_idle()
            elif self._signal.score != "batch":  # whose scores change while prompts rest
                self._let_rest()

    def _wake(self, positions: Positions) -> None:
        """Gives each of these prompts a moving row."""
        idle = positions[self._slots[positions] == 0]
        times = self._times[idle]
        self._seen.append(positions[self._times[positions] == 0])
        self._idle_order.discard(keys(times, idle))
        self._moving.append(Content.of(self._shared, keys(times, idle)))
        if len(self._resting):
            _, resting = self._resting.find(positions)
            content = self._resting.content(resting)
            self._resting_order.discard(content.ranks)
            self._resting.remove(resting)
            self._moving.append(content)

    def _never_seen(self, first: int, end: int) -> Positions:
        """Positions in this range of prompts never observed, without those that have a row: their keys too."""
        return first + np.flatnonzero((self._times[first:end] == 0) & (self._slots[first:end] == 0))

    def _let_idle(self) -> None:
        """Takes their rows from moving prompts that are within the tolerance of idle ones."""
        rows = np.flatnonzero(self._moving.seen_at <= self._step - self._shortest_wait)
        beliefs = Beliefs(*(array.take(rows, axis=-1) for array in self._moving.beliefs))
        rows = rows[
            settling.forgotten(beliefs, self._shared, self._least_evidence, self._tolerance)
        ]
        self._idle_order.add(keys_of(self._moving.ranks[rows]))
        self._moving.remove(rows)

    def _let_rest(self) -> None:
        """Sets aside moving prompts that have arrived where their own transitions lead."""
        rows = np.flatnonzero(
            settling.converged(self._moving.beliefs, self._prior, self._tolerance)
        )
        content = self._moving.content(rows)
        self._resting_order.add(content.ranks)
        self._moving.remove(rows)
        self._resting.append(content)

    def begin(self, evidence: Evidence) -> None:
        """Begins with what is known before the first step; see `dps_ray.selection.evidence`. Each prompt in it gets a
        row, until its evidence is forgotten."""
        other = PoolBeliefs(  # its scores are not used
            self.index,
            self._decay,
            self._prior,
            self._initial,
            self.index.seed,
            self._tolerance,
            self._entropy_weight,
        )
        for found in evidence.steps():
            other.observe(held_by(self.index, found))
        for table in (other._moving, other._resting):
            positions = positions_of(keys_of(table.ranks))
            numbers, weight = table.content(np.arange(len(table))).numbers, evidence.weight
            numbers[:9] *= weight
            numbers[9:12] = (1 - weight) * self._initial[:, None] + weight * numbers[9:12]
            alpha = numbers[:9].reshape(3, 3, -1) + self._prior[:, :, None]
            numbers[12:] = hmm.predict(alpha, numbers[9:12])
            score = self._scores(numbers[12:])
            self._idle_order.discard(positions)
            seen_at = table.seen_at - other._step
            self._moving.append(Content(numbers, ranks(score, positions), seen_at))

    def _scores(self, predicted: Floats) -> Floats:
        """What prompts with these predictions are ranked by: (3, n) -> (n,)."""
        return scores(predicted, self._entropy_weight, self._signal)

    # --- looking ----------------------------------------------------------------------------------

    def predicted(self, ids: ArrayLike) -> Floats:
        """Beliefs for the next step: float64 (n, 3), P(unsolved), P(partial), P(solved) of each id."""
        return np.ascontiguousarray(self._look_up("predicted", ids).T)

    def transition_counts(self, ids: ArrayLike) -> Floats:
        """alpha of each id: float64 (n, 3, 3), [id, to, from], the prior included."""
        return np.moveaxis(self._look_up("evidence", ids), -1, 0) + self._prior

    def times_sampled(self, ids: ArrayLike) -> NDArray[np.int64]:
        """At how many steps each id was observed: int64 (n,)."""
        return self._times[self.index.positions(ids)].astype(np.int64)

    def metrics(self) -> dict[str, float]:
        """How many prompts are moving, resting, and were ever seen; shards may add theirs up."""
        return {
            "beliefs/active_rows": float(len(self._moving)),
            "beliefs/resting_rows": float(len(self._resting)),
            "beliefs/prompts_seen": float(len(self._seen)),
        }

    @property
    def nbytes(self) -> int:
        """Memory of all that is held, rows and indexes."""
        arrays = (self._times, self._slots, self._seen, self._idle_order, self._resting_order)
        parts = (self.index, self._moving, self._resting, *arrays)
        return sum(part.nbytes for part in parts)

    def _look_up(self, field: str, ids: ArrayLike) -> Floats:
        """A field of `Beliefs` for each of these ids: (..., n)."""
        positions = self.index.positions(ids)
        found: Floats = getattr(self._shared, field).repeat(len(positions), axis=-1)
        for table in filter(len, (self._moving, self._resting)):
            here, rows = table.find(positions)
            found[..., here] = getattr(table.beliefs, field).take(rows, axis=-1)
        return found

    # --- keeping ----------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """The whole state, as arrays and plain numbers that `numpy.savez` can write.

        It takes time and space by the prompts ever observed, not by the pool. So it leaves the pool's ids
        out, which the data has anyway.
        """
        seen = np.sort(self._seen.values)
        snapshot = {
            **self._own_settings(),
            **self._signal.snapshot(),
            "step": self._step,
            "shared_posterior": self._shared.posterior.copy(),
            "shared_predicted": self._shared.predicted.copy(),
            "seen_ids": self.index.ids(seen),
            "seen_times": self._times[seen],
        }
        for name, table in (("moving", self._moving), ("resting", self._resting)):
            content = table.content(positions_of(keys_of(table.ranks)).argsort())
            snapshot[f"{name}_ids"] = self.index.ids(positions_of(keys_of(content.ranks)))
            snapshot[f"{name}_numbers"] = content.numbers
            snapshot[f"{name}_scores"] = -content.ranks.real
            snapshot[f"{name}_seen_at"] = content.seen_at
        return snapshot

    def _own_settings(self) -> dict[str, Any]:
        return {
            "decay": self._decay,
            "prior": self._prior.copy(),
            "initial": self._initial.copy(),
            "seed": self.index.seed,
            "tolerance": self._tolerance,
            "entropy_weight": self._entropy_weight,
        }

    def load_state(self, snapshot: Mapping[str, Any]) -> None:
        """Goes on from a snapshot, bit-equal to never having stopped; see `Selector.load_state`.

        It takes time by the prompts ever observed, not by the pool.
        """
        check_settings(snapshot, self._own_settings())
        self._signal = self._signal.load_state(snapshot)
        seen = self.index.distinct_positions(snapshot["seen_ids"])
        self._step = int(snapshot["step"])
        self._shared = self._shared._replace(
            posterior=snapshot["shared_posterior"], predicted=snapshot["shared_predicted"]
        )
        self._idle_order.discard(seen)  # their keys when never sampled
        self._seen.append(seen)
        self._times[seen] = snapshot["seen_times"]
        for name, table in (("moving", self._moving), ("resting", self._resting)):
            # Those that were not observed by this run may be gone from the pool.
            positions, here = self.index.find(np.asarray(snapshot[f"{name}_ids"]))
            positions = positions[here]
            self._idle_order.discard(positions[self._times[positions] == 0])
            content = Content(
                numbers=snapshot[f"{name}_numbers"][:, here],
                ranks=ranks(
                    snapshot[f"{name}_scores"][here], keys(self._times[positions], positions)
                ),
                seen_at=snapshot[f"{name}_seen_at"][here],
            )
            table.append(content)
        self._resting_order.add(self._resting.ranks)
        idle = seen[self._slots[seen] == 0]
        self._idle_order.add(keys(self._times[idle], idle))


def within(name: str, value: float, low: float, high: float) -> float:
    if not low <= value <= high:
        raise ValueError(f"{name} must lie between {low:g} and {high:g}, not {value!r}")
    return float(value)
