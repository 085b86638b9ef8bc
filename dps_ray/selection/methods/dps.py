"""DPS: the prompts that are likeliest to be partial at the next step."""

from dataclasses import fields
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from dps_ray.beliefs.settings import StateSettings
from dps_ray.hashing import hash_key
from dps_ray.plain_settings import Limits, Share
from dps_ray.selection.choice import Selection, check_size, merge
from dps_ray.selection.draws import on_the_ring, tempered
from dps_ray.selection.methods.rate_hmm import RateHMM
from dps_ray.selection.methods.reward_moments import RewardMoments
from dps_ray.selection.pool.beliefs import PoolBeliefs, within
from dps_ray.selection.pool.index import Positions, PromptIndex
from dps_ray.selection.pool.ranking import (
    Keys,
    best,
    keys,
    keys_of,
    positions_of,
    ranks,
    times_of,
)
from dps_ray.selection.pool.rows import Rows
from dps_ray.selection.selector import Context, Selector
from dps_ray.selection.settings import BeliefSettings, DrawSettings, ScoreSettings
from dps_ray.selection.signal import Score, Signal

_TEMPERED = 0x74656D70  # keeps this draw apart from that of candidates
_NOTHING = np.empty(0, dtype=np.int64)


class BeliefStore(PoolBeliefs):
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
        score: what takes the place of P(partial) in the score; see `dps_ray.selection.signal`. `batch` needs counts with each
            observation.
        group_size: k, responses of the next group; `partial` does not depend on it.
        candidates: share of the pool to rank, unless `select` says otherwise; None: all of it.

    Raises:
        ValueError: an argument is out of its range, an id is not a 64-bit integer or stands twice.
    """

    class Settings(DrawSettings, BeliefSettings, ScoreSettings):
        decay: Share = 0.7
        """Weight of the past in the transition counts (lambda); 1 never forgets, 0 keeps one step."""
        prior: Literal["uniform", "progress", "stability", "local"] = "uniform"
        """Prior transition counts alpha0, by their published names."""
        entropy_weight: Annotated[float, Limits(ge=0.0)] = 0.0
        """Adds this times the belief's entropy to the score when ranking ("topk+entropy")."""
        observation: Literal["states", "counts", "rewards"] = "states"
        """What is learned from a group. states: its solve state, as published. counts: how many of its responses were
        right; the belief is then over solve rates, whose moves all prompts teach together. rewards: mean and variance
        of its rewards, with `states.rule=variation`. `prior`, `entropy_weight` and `candidates` are for states
        alone."""
        candidates: Annotated[float, Limits(gt=0.0, le=1.0)] | None = None
        """Rank only this share of the pool, a random part, new each step (published "candidate_ratio"); null ranks
        all."""

        @property
        def learns_from_rewards(self) -> bool:
            return self.observation == "rewards"

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.candidates is not None and self.temperature is not None:
                raise ValueError(
                    f"selector.candidates={self.candidates} and selector.temperature={self.temperature}: a draw is "
                    "from the whole pool, so set one of them to null"
                )
            if self.observation == "rewards" and self.score not in ("objective", "partial"):
                raise ValueError(
                    f"selector.score={self.score} is for right and wrong responses, and selector.observation=rewards knows "
                    "how rewards vary; set selector.score=partial"
                )
            defaults = {field.name: field.default for field in fields(self)}
            for name in ("prior", "entropy_weight", "candidates"):
                value, default = getattr(self, name), defaults[name]
                if self.observation != "states" and value != default:
                    raise ValueError(
                        f"selector.{name}={value} is for selector.observation=states; leave it at "
                        f"{'null' if default is None else default}"
                    )

        def check(self, states: StateSettings) -> None:
            super().check(states)
            if self.observation == "rewards" and states.rule != "variation":
                raise ValueError(
                    "selector.observation=rewards predicts what states.rule=variation calls partial, and "
                    f"states.rule={states.rule}; set it to variation"
                )

    @classmethod
    def make(cls, ids: ArrayLike, settings: Settings, context: Context) -> Selector:
        """Returns the selector that learns from what `settings.observation` says."""
        selector: RateHMM | RewardMoments
        score = settings.scored_by(context)
        if settings.observation == "states":
            return cls(
                ids,
                decay=settings.decay,
                prior=settings.prior,
                entropy_weight=settings.entropy_weight,
                seed=context.seed,
                temperature=settings.temperature,
                candidates=settings.candidates,
                score=score,
                group_size=context.group_size,
            )
        if settings.observation == "counts":
            selector = RateHMM(
                ids,
                context.seed,
                decay=settings.decay,
                group_size=context.group_size,
                score=score,
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
        candidates: float | None = None,
        score: Score = "partial",
        group_size: int = 8,
    ) -> None:
        if temperature is not None and not temperature > 0:
            raise ValueError(f"temperature must be above 0, not {temperature!r}")
        signal = Signal.of(score, group_size)
        super().__init__(ids, decay, prior, initial, seed, tolerance, entropy_weight, signal)
        self._temperature, self._candidates = temperature, candidates

    # --- choosing ---------------------------------------------------------------------------------

    def select(
        self, size: int, exclude: ArrayLike | None = None, candidates: int | float | None = None
    ) -> Selection:
        """The `size` prompts with the largest score, best first; equals by (times sampled, seeded hash).

        exclude: ids to leave out, such as those in flight.
        candidates: None: as the store was made; rank only a seeded random subset, new each step: an int for that many
            prompts, a float in [0, 1] for that share of the pool (the published `candidate_ratio`). The subset is an arc
            of the ring of hashes from a random point on: each prompt is as likely as any other, neighbours
            on the ring come together, and drawing it costs O(its size), not O(N). A share is cut by hash,
            so that each shard finds its own part of one and the same subset; when that is smaller than
            `size`, all of it is returned.

        Raises ValueError when fewer than `size` prompts are left to choose from, and for an id in `exclude`
        that is unknown or given twice.
        """
        candidates = self._candidates if candidates is None else candidates
        excluded = _NOTHING if exclude is None else self.index.distinct_positions(exclude)
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

        Prompts with a row draw noise of their own, by (seed, step, id). Idle prompts, which have one score, use the
        distance of their hash from a point on the ring of hashes that is drawn anew each step: within a step these
        are independent uniforms too, and the nearest are found without looking at the others.
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
        score = self._scores(predicted)
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
            arc = self.index.arc(start, share=within("candidates", candidates, 0, 1))
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
                ranks(self._scores(shared), idle),
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

    def _own_settings(self) -> dict[str, Any]:
        own = super()._own_settings()
        return own if self._temperature is None else {**own, "temperature": self._temperature}
