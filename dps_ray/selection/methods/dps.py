"""The beliefs of a pool of prompts, at a cost that does not grow with the pool.

A prompt that is not rolled out forgets: its evidence decays to nothing, and its belief runs into the one
that all prompts share of which nothing is known. Once it is there to within a tolerance it is *idle* and
needs no row. So a step is made of three parts:

    moving    observed in the last few dozen steps: a row of its own                   O(moving) a step
    idle      never seen, or forgotten: one shared belief, and an order to draw from   O(batch) a step
    resting   with decay 1 alone, where nothing is forgotten: a prompt whose belief has come to the
              fixed point of its own transitions keeps its row and stands still        O(batch) a step

How many are moving depends on the batch and the decay, not on the pool: some thousands with decay 0.7 and
256 prompts a step. They are moved by the same `hmm.step` by which an eager sweep would move all prompts;
their rows, 144 bytes each, stay in the processor's cache, and what bounds a step is the fixed cost of its
calls into NumPy. An idle prompt costs 17 bytes, and up to 15 more once it has been sampled. Measured in
docs/performance.md.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from dps_ray.beliefs import hmm, settling
from dps_ray.beliefs.hmm import Beliefs, Floats
from dps_ray.beliefs.priors import initial_belief, prior_counts
from dps_ray.beliefs.settings import StateSettings
from dps_ray.beliefs.states import Observation, check_states
from dps_ray.hashing import hash_key
from dps_ray.selection.choice import Selection, check_size, merge
from dps_ray.selection.draws import on_the_ring, tempered
from dps_ray.selection.methods.rate_hmm import RateHMM
from dps_ray.selection.methods.reward_moments import RewardMoments
from dps_ray.selection.pool.growing import GrowingArray
from dps_ray.selection.pool.index import Positions, PromptIndex
from dps_ray.selection.pool.lazy_order import LazyOrder
from dps_ray.selection.pool.ranking import (
    Keys,
    best,
    keys,
    keys_of,
    positions_of,
    ranks,
    scores,
    times_of,
)
from dps_ray.selection.pool.rows import Content, Rows, RowTable
from dps_ray.selection.selector import Context, Selector
from dps_ray.selection.settings import DrawSettings
from dps_ray.setting_types import Share

_TEMPERED = 0x74656D70  # keeps this draw apart from that of candidates
_NOBODY = np.empty(0, dtype=np.int64)
# Steps between looks at which prompts have settled. They keep their rows a little longer than they need
# to, and leave in lots: a look costs half as much as a step.
_SETTLE_EVERY = 8


class BeliefStore:
    """Beliefs over solve states for every prompt of a pool, or of a shard of it, and the best to try next.

    Exact: equal to sweeping over all prompts each step (`hmm.step`) to within a small multiple of
    `tolerance`. Bit-equal for any split of the ids over several stores, given `dps_ray.merge`.

    Args:
        ids: int64 (N,), unique, in any order; or the `index` of another store over the same ids.
        decay: lambda in [0, 1], how much of the evidence is kept from step to step. 1 forgets nothing.
        prior: alpha_0, float (3, 3), [to, from], or the name of a published one: "uniform", "progress",
            "stability", "local". Where it holds 0, that jump counts as all but impossible and is learned
            from all the same when it happens; see `hmm.count_moves`.
        initial: belief before the first step, float (3,) summing to 1; None: 1/3 each.
        seed: orders equals, and draws candidates.
        tolerance: how near a prompt must be to what is shared to be taken for idle; see `settling`.
        entropy_weight: score = P(partial) + entropy_weight * entropy in nats (published "topk+entropy").
        temperature: T > 0 draws without replacement by weight score^(1/T); None takes the best.

    Raises:
        ValueError: an argument is out of its range, an id is not a 64-bit integer or stands twice.
    """

    class Settings(DrawSettings):
        decay: Share = 0.7
        """Weight of the past in the transition counts (lambda); 1 never forgets, 0 keeps one step."""
        prior: Literal["uniform", "progress", "stability", "local"] = "uniform"
        """Prior transition counts alpha0, by their published names."""
        entropy_weight: Annotated[float, Field(ge=0.0)] = 0.0
        """Adds this times the belief's entropy to P(partial) when ranking ("topk+entropy")."""
        observation: Literal["states", "counts", "rewards"] = "states"
        """What is learned from a group. states: its solve state, as published. counts: how many of its responses were
        right; the belief is then over solve rates, whose moves all prompts teach together. rewards: mean and variance
        of its rewards, with `states.rule=variation`. `prior`, `entropy_weight` and `candidates` are for states
        alone."""
        candidates: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
        """Rank only this share of the pool, a random part, new each step (published "candidate_ratio"); null ranks
        all."""

        @property
        def learns_from_rewards(self) -> bool:
            return self.observation == "rewards"

        @model_validator(mode="after")
        def _a_draw_is_from_the_whole_pool(self) -> Self:
            if self.candidates is not None and self.temperature is not None:
                raise ValueError(
                    f"selector.candidates={self.candidates} and selector.temperature={self.temperature}: a draw is "
                    "from the whole pool, so set one of them to null"
                )
            return self

        @model_validator(mode="after")
        def _other_observations_have_no_settings_of_states(self) -> Self:
            for name in ("prior", "entropy_weight", "candidates"):
                value, default = getattr(self, name), type(self).model_fields[name].default
                if self.observation != "states" and value != default:
                    raise ValueError(
                        f"selector.{name}={value} is for selector.observation=states; leave it at "
                        f"{'null' if default is None else default}"
                    )
            return self

        def check(self, states: StateSettings) -> None:
            if self.observation == "rewards" and states.rule != "variation":
                raise ValueError(
                    "selector.observation=rewards predicts what states.rule=variation calls partial, and "
                    f"states.rule={states.rule}; set it to variation"
                )

    @classmethod
    def make(cls, ids: ArrayLike, settings: Settings, context: Context) -> Selector:
        """Returns the selector that learns from what `settings.observation` says."""
        selector: RateHMM | RewardMoments
        if settings.observation == "states":
            return cls(
                ids,
                decay=settings.decay,
                prior=settings.prior,
                entropy_weight=settings.entropy_weight,
                seed=context.seed,
                temperature=settings.temperature,
            )
        if settings.observation == "counts":
            selector = RateHMM(
                ids, context.seed, decay=settings.decay, group_size=context.group_size
            )
        else:
            states = context.states
            selector = RewardMoments(
                ids,
                context.seed,
                decay=settings.decay,
                group_size=context.group_size,
                least_std=states.least_std,
                middle=(states.low + states.high) / 2,
            )
        selector.temperature = settings.temperature
        return selector

    def __init__(
        self,
        ids: ArrayLike | PromptIndex,
        decay: float = 0.7,
        prior: str | ArrayLike = "uniform",
        initial: ArrayLike | None = None,
        seed: int = 0,
        tolerance: float = 1e-9,
        entropy_weight: float = 0.0,
        temperature: float | None = None,
    ) -> None:
        self._decay = _within("decay", decay, 0, 1)
        self._tolerance = _within("tolerance", tolerance, 0, 1)
        self._entropy_weight = _within("entropy_weight", entropy_weight, -1e6, 1e6)
        if temperature is not None and not temperature > 0:
            raise ValueError(f"temperature must be above 0, not {temperature!r}")
        self._temperature = temperature
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
        self._slots = np.zeros(len(self), dtype=np.int32)  # who has a row; see `RowTable`
        self._moving, self._resting = RowTable(self._slots, 1), RowTable(self._slots, -1)
        self._idle_order = LazyOrder(np.int64, len(self), self._never_seen)  # of keys
        self._resting_order = LazyOrder(np.complex128)  # of ranks
        self._seen = GrowingArray(np.int32)  # positions of all prompts ever observed

    def __len__(self) -> int:
        return len(self.index)

    # --- choosing ---------------------------------------------------------------------------------

    def select(
        self, size: int, exclude: ArrayLike | None = None, candidates: int | float | None = None
    ) -> Selection:
        """The `size` prompts with the largest score, best first; equals by (times sampled, seeded hash).

        exclude: ids to leave out, such as those in flight.
        candidates: rank only a seeded random subset, new each step: an int for that many prompts, a float
            in [0, 1] for that share of the pool (the published `candidate_ratio`). The subset is an arc
            of the ring of hashes from a random point on: each prompt is as likely as any other, neighbours
            on the ring come together, and drawing it costs O(its size), not O(N). A share is cut by hash,
            so that each shard finds its own part of one and the same subset; when that is smaller than
            `size`, all of it is returned.

        Raises ValueError when fewer than `size` prompts are left to choose from, and for an id in `exclude`
        that is unknown or given twice.
        """
        excluded = _NOBODY if exclude is None else self.index.distinct_positions(exclude)
        check_size(size, len(self), len(excluded), candidates)
        if self._temperature is not None:
            if candidates is not None:
                raise ValueError("temperature draws from the whole pool: give no candidates")
            return self._tempered(self._temperature, size, excluded)
        if candidates is None:
            return self._ranked(*self._best_of_each(size, excluded), size)
        return self._ranked(*self._drawn(candidates, excluded), size)

    def _tempered(self, temperature: float, size: int, excluded: Positions) -> Selection:
        """A draw of `size` prompts by weight score^(1/T), the first drawn first.

        Prompts with a row draw noise of their own, by (seed, step, id). Idle ones, who have one score, take
        for their noise how far their hash lies from a point on the ring of hashes that is drawn anew each
        step: within a step these are independent uniforms too, and the nearest are found without a look at
        the others.
        """
        key = hash_key(self.index.seed, self._step, _TEMPERED)
        start, need = hash_key(key), size + len(excluded)
        while True:
            arc = self.index.arc(start, length=need)
            idle = arc[(self._slots[arc] == 0) & ~np.isin(arc, excluded)][:size]
            if len(idle) == size or len(arc) == len(self):
                break
            need *= 2
        parts = [(idle, self._shared.predicted.repeat(len(idle), axis=1))]
        for table in (self._moving, self._resting):
            positions = positions_of(keys_of(table.ranks))
            rows = np.flatnonzero(~np.isin(positions, excluded))
            parts.append((positions[rows], table.beliefs.predicted.take(rows, axis=1)))
        positions = np.concatenate([part[0] for part in parts])
        predicted = np.concatenate([part[1] for part in parts], axis=1)
        ties = self.index.ties(positions)
        score = scores(predicted, self._entropy_weight)
        drawn = tempered(score, temperature, ties, key)
        drawn[: len(idle)] = on_the_ring(score[: len(idle)], temperature, ties[: len(idle)], start)
        selection = Selection(
            ids=self.index.ids(positions),
            predicted=np.ascontiguousarray(predicted.T),
            score=drawn,
            times_sampled=self._times[positions].astype(np.int64),
            tie=ties,
            behind=np.zeros(len(ties)),
        )
        return merge([selection], size)

    def _best_of_each(self, size: int, excluded: Positions) -> tuple[Rows, Rows, Keys]:
        """The best moving, resting and idle prompts: `size` of each, or all where there are fewer."""
        enough = size + len(excluded)
        moving = best(self._moving.ranks, enough)
        resting_keys = keys_of(self._resting_order.smallest(enough))
        resting = self._resting.find(positions_of(resting_keys))[1]
        idle = self._idle_order.smallest(enough)
        if len(excluded):
            moving = moving[~np.isin(moving, self._moving.find(excluded)[1])]
            resting = resting[~np.isin(resting, self._resting.find(excluded)[1])]
            idle = idle[~np.isin(positions_of(idle), excluded)]
        return moving, resting, idle

    def _drawn(self, candidates: int | float, excluded: Positions) -> tuple[Rows, Rows, Keys]:
        """The candidates of this step by kind, without those excluded."""
        start = hash_key(self.index.seed, self._step)
        if isinstance(candidates, int | np.integer):
            arc = self.index.arc(start, length=int(candidates) + len(excluded))
            arc = arc[~np.isin(arc, excluded)][: int(candidates)]
        else:
            arc = self.index.arc(start, share=_within("candidates", candidates, 0, 1))
            arc = arc[~np.isin(arc, excluded)]
        idle = arc[self._slots[arc] == 0]
        return (
            self._moving.find(arc)[1],
            self._resting.find(arc)[1],
            keys(self._times[idle], idle),
        )

    def _ranked(self, moving: Rows, resting: Rows, idle: Keys, size: int) -> Selection:
        """The `size` best of these prompts, best first."""
        shared = self._shared.predicted
        rank = np.concatenate(
            [
                self._moving.ranks[moving],
                self._resting.ranks[resting],
                ranks(scores(shared, self._entropy_weight), idle),
            ]
        )
        predicted = np.concatenate(
            [
                self._moving.beliefs.predicted.take(moving, axis=1),
                self._resting.beliefs.predicted.take(resting, axis=1),
                shared.repeat(len(idle), axis=1),
            ],
            axis=1,
        )
        chosen = best(rank, size)
        chosen = chosen[rank[chosen].argsort()]
        key = keys_of(rank[chosen])
        return Selection(
            ids=self.index.ids(positions_of(key)),
            predicted=np.ascontiguousarray(predicted[:, chosen].T),
            score=-rank[chosen].real,
            times_sampled=times_of(key),
            tie=self.index.ties(positions_of(key)),
            behind=np.zeros(len(key)),
        )

    # --- learning ---------------------------------------------------------------------------------

    def observe(
        self,
        ids: ArrayLike,
        states: ArrayLike,
        successes: ArrayLike | None = None,
        responses: ArrayLike | None = None,
        everywhere: Observation | None = None,
    ) -> None:
        """One step of the whole pool: these prompts were rolled out and found in these solve states.

        ids: int64 (n,), without duplicates; states: int (n,) in {0, 1, 2}. n may be 0: all forget a little.
        The rest, by which other methods learn, is not looked at.

        Raises ValueError, and changes nothing, for an id that is unknown or given twice, and for a state
        that is none.
        """
        positions = self.index.distinct_positions(ids)
        seen = check_states(states, len(positions))
        self._wake(positions)
        _, rows = self._moving.find(positions)
        self._step += 1
        self._times[positions] += 1
        key = keys(self._times[positions], positions)
        moved = hmm.step(self._moving.beliefs, rows, seen, self._prior, self._decay)
        for mine, new in zip(self._moving.beliefs, moved, strict=True):
            mine[...] = new
        self._moving.ranks.imag[rows] = key
        self._moving.ranks.real[:] = -scores(moved.predicted, self._entropy_weight)
        self._moving.seen_at[rows] = self._step
        self._shared = hmm.drift(self._shared, self._prior)
        if self._step % _SETTLE_EVERY == 0:
            self._let_idle() if self._decay < 1 else self._let_rest()

    def _wake(self, positions: Positions) -> None:
        """Gives each of these prompts a moving row."""
        idle = positions[self._slots[positions] == 0]
        times = self._times[idle]
        self._seen.append(idle[times == 0])
        self._idle_order.discard(keys(times, idle))
        self._moving.append(Content.of(self._shared, keys(times, idle)))
        if len(self._resting):
            _, resting = self._resting.find(positions)
            content = self._resting.content(resting)
            self._resting_order.discard(content.ranks)
            self._resting.remove(resting)
            self._moving.append(content)

    def _never_seen(self, first: int, end: int) -> Positions:
        """Positions in this range of prompts never observed: their keys too."""
        return first + np.flatnonzero(self._times[first:end] == 0)

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
        found = getattr(self._shared, field).repeat(len(positions), axis=-1)
        for table in filter(len, (self._moving, self._resting)):
            here, rows = table.find(positions)
            found[..., here] = getattr(table.beliefs, field).take(rows, axis=-1)
        return found

    # --- keeping ----------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """The whole state, as arrays and plain numbers that `numpy.savez` can write.

        It takes time and space by the prompts ever observed, not by the pool. So it leaves the pool's ids
        out, which the data has anyway, and `restore` wants them again.
        """
        seen = np.sort(self._seen.values)
        snapshot = {
            "decay": self._decay,
            "prior": self._prior.copy(),
            "initial": self._initial.copy(),
            "seed": self.index.seed,
            "tolerance": self._tolerance,
            "entropy_weight": self._entropy_weight,
            "step": self._step,
            "shared_posterior": self._shared.posterior.copy(),
            "shared_predicted": self._shared.predicted.copy(),
            "seen_ids": self.index.ids(seen),
            "seen_times": self._times[seen],
        }
        if self._temperature is not None:
            snapshot["temperature"] = self._temperature
        for name, table in (("moving", self._moving), ("resting", self._resting)):
            content = table.content(positions_of(keys_of(table.ranks)).argsort())
            snapshot[f"{name}_ids"] = self.index.ids(positions_of(keys_of(content.ranks)))
            snapshot[f"{name}_numbers"] = content.numbers
            snapshot[f"{name}_scores"] = -content.ranks.real
            snapshot[f"{name}_seen_at"] = content.seen_at
        return snapshot

    @classmethod
    def restore(cls, snapshot: Mapping[str, Any], ids: ArrayLike | PromptIndex) -> Self:
        """The store that `snapshot()` was taken of; going on from it is bit-equal to never having stopped.

        ids: the same pool as then; given a store's `index` of it, which spares sorting the ids again,
        restoring takes time by the prompts ever observed. Raises ValueError when one of those is not in it.
        """
        store = cls(
            ids,
            decay=float(snapshot["decay"]),
            prior=snapshot["prior"],
            initial=snapshot["initial"],
            seed=int(snapshot["seed"]),
            tolerance=float(snapshot["tolerance"]),
            entropy_weight=float(snapshot["entropy_weight"]),
            temperature=float(snapshot["temperature"]) if "temperature" in snapshot else None,
        )
        store._step = int(snapshot["step"])
        store._shared = store._shared._replace(
            posterior=snapshot["shared_posterior"], predicted=snapshot["shared_predicted"]
        )
        seen = store.index.distinct_positions(snapshot["seen_ids"])
        store._idle_order.discard(seen)  # their keys when never sampled
        store._seen.append(seen)
        store._times[seen] = snapshot["seen_times"]
        for name, table in (("moving", store._moving), ("resting", store._resting)):
            positions = store.index.distinct_positions(snapshot[f"{name}_ids"])
            content = Content(
                numbers=snapshot[f"{name}_numbers"],
                ranks=ranks(snapshot[f"{name}_scores"], keys(store._times[positions], positions)),
                seen_at=snapshot[f"{name}_seen_at"],
            )
            table.append(content)
        store._resting_order.add(store._resting.ranks)
        idle = seen[store._slots[seen] == 0]
        store._idle_order.add(keys(store._times[idle], idle))
        return store


def _within(name: str, value: float, low: float, high: float) -> float:
    if not low <= value <= high:
        raise ValueError(f"{name} must lie between {low:g} and {high:g}, not {value!r}")
    return float(value)
