"""Beliefs over prompts that were never seen: a pool, its clusters, their prompts.

    waiting   never tried, or long ago: their cluster's belief, in a random order      O(clusters + batch)
    recent    tried in the last few dozen steps: a row of its own                      O(recent)

The next batch is drawn from both, by weight score^(1/T) without replacement, the score being P(partial)
unless it is said otherwise: a prompt seen partial lately
comes again when its own belief says so, but most are new ones, of the clusters that are partial now.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dps_ray.beliefs.states import Observation
from dps_ray.hashing import as_ids, hash_key
from dps_ray.selection.choice import Selection, check_size, merge
from dps_ray.selection.clusters import Clusters, number_within
from dps_ray.selection.coverage import REST, ROUND
from dps_ray.selection.draws import largest, log_weights, tempered
from dps_ray.selection.evidence import Evidence, held_by
from dps_ray.selection.outcomes import checked
from dps_ray.selection.pool.index import PromptIndex
from dps_ray.selection.pooled.growth import translated
from dps_ray.selection.pooled.race import first_waiting
from dps_ray.selection.pooled.rate_dynamics import RateDynamics
from dps_ray.selection.pooled.recent import Recent
from dps_ray.selection.pooled.settings import PooledSettings
from dps_ray.selection.pooled.state_dynamics import Found, StateDynamics
from dps_ray.selection.pooled.waiting import Waiting, keys_of
from dps_ray.selection.pooled.whole_step import clustered, step_keys
from dps_ray.selection.selector import Context, Selector, check_settings
from dps_ray.selection.signal import Score, Signal

_USUAL_REST = 20  # steps, unless it is set
_RECENT = 50  # steps after which a prompt waits again
_OF_CLUSTERS, _OF_PROMPTS = 1, 2  # keep the draws of the two apart


class PooledStore:
    """Selects by pooled beliefs; see `StateDynamics` and `RateDynamics` for the beliefs.

    Bit-equal for any split of the ids over several stores, given `dps_ray.merge` and the whole step.

    Args:
        ids: int64 (N,), unique, in any order.
        clusters: of each id, from `number_within` of the whole pool; None: these ids are the pool, and all
            are of one cluster.
        seed: decides the order in which prompts are tried, and keys all draws.
        observation: what a prompt shows: its state, or how many responses were right.
        group_size: k, responses of the next group.
        cluster_decay: gamma in [0, 1], the part of the clusters' counts kept from step to step.
        decay: lambda in [0, 1], the part of a prompt's own evidence kept.
        strength: kappa, how many moves its cluster's transitions are worth to a prompt.
        temperature: T > 0; small is greedy, large uniform.
        rest, max_uses: see `Settings`; a rest of None is 20, or as many as leave half of the pool.
        score: what takes the place of P(partial); see `dps_ray.selection.signal`.

    Raises:
        ValueError: an argument is out of its range, an id is not a 64-bit integer or stands twice, or there is
            not one cluster for each.
    """

    class Settings(PooledSettings):
        pass

    @classmethod
    def make(cls, ids: ArrayLike, settings: Settings, context: Context) -> Selector:
        """Returns the store over these prompts, of the clusters of `context`."""
        return cls(
            ids,
            context.clusters,
            context.seed,
            observation=settings.observation,
            group_size=context.group_size,
            decay=settings.decay,
            cluster_decay=settings.cluster_decay,
            strength=settings.cluster_strength,
            temperature=settings.temperature,
            rest=settings.rest,
            max_uses=settings.max_uses,
            score=settings.scored_by(context),
        )

    def __init__(
        self,
        ids: ArrayLike,
        clusters: Clusters | None = None,
        seed: int = 0,
        *,
        observation: Literal["states", "counts"] = "states",
        group_size: int = 8,
        cluster_decay: float = 0.9,
        decay: float = 0.7,
        strength: float = 10.0,
        temperature: float = 0.25,
        rest: int | None = None,
        max_uses: int | None = None,
        score: Score = "partial",
    ) -> None:
        self.seed = int(seed)
        self.observation, self.group_size = observation, int(group_size)
        self.cluster_decay, self.decay = float(cluster_decay), float(decay)
        self.strength = float(strength)
        self.temperature, self.rest, self.max_uses = float(temperature), rest, max_uses
        for name, value, good, wanted in (
            ("observation", observation, observation in ("states", "counts"), "states or counts"),
            ("cluster_decay", cluster_decay, 0 <= cluster_decay <= 1, "between 0 and 1"),
            ("decay", decay, 0 <= decay <= 1, "between 0 and 1"),
            ("strength", strength, strength > 0, "above 0"),
            ("temperature", temperature, temperature > 0, "above 0"),
            ("rest", rest, rest is None or rest >= 0, "None, or 0 or more"),
            ("max_uses", max_uses, max_uses is None or max_uses >= 1, "None, or 1 or more"),
        ):
            if not good:
                raise ValueError(f"{name}={value!r}: it must be {wanted}")
        self._signal = Signal.of(score, group_size)
        known = as_ids(ids)
        clusters = number_within(known, None, seed) if clusters is None else clusters
        if len(clusters.labels) != len(known):
            raise ValueError(f"{len(known)} ids came with the clusters of {len(clusters.labels)}")
        self._index = PromptIndex(known, self.seed)
        by_position = np.empty(len(known), dtype=np.int64)
        by_position[self._index.positions(known)] = np.arange(len(known))
        self._clusters = clusters.take(by_position)
        self._dynamics: StateDynamics | RateDynamics = (
            RateDynamics(len(clusters.sizes), self.cluster_decay, self.group_size)
            if observation == "counts"
            else StateDynamics(len(clusters.sizes), self.cluster_decay, self.decay, self.strength)
        )
        self._aside = np.empty(0, dtype=np.int64)  # ids of all shards that cannot be used
        self._let_all_wait()

    def _let_all_wait(self) -> None:
        """Makes every prompt one that was never tried."""
        self.step = self._seen = 0  # steps, and prompts ever observed
        self._waiting = Waiting(self._clusters)
        self._recent = Recent.none(self._dynamics.width)
        self._mine = np.empty(0, dtype=np.int64)  # positions of the recent, -1 of another shard's
        self._times = np.zeros(len(self), dtype=np.int32)

    def __len__(self) -> int:
        return len(self._index)

    # --- choosing ---------------------------------------------------------------------------------

    def select(self, size: int, exclude: ArrayLike | None = None) -> Selection:
        """The first `size` of a draw without replacement, by weight score^(1/T); none in `exclude`.

        The draw belongs to (seed, step): asked again with others excluded, the rest come in the same order.

        Raises ValueError when fewer than `size` are left to choose from, and for an id in `exclude` that is
        unknown or given twice.
        """
        excluded = self._index.distinct_positions([] if exclude is None else exclude)
        check_size(size, len(self), len(excluded))
        rows = np.flatnonzero((self._mine >= 0) & ~np.isin(self._mine, excluded))
        waiting, waiting_score = first_waiting(
            self._waiting,
            log_weights(self._dynamics.waiting_scores(self._signal), self.temperature),
            size,
            hash_key(self.seed, self.step, _OF_CLUSTERS),
            excluded,
            laps=self.max_uses is not None,
        )
        score = np.concatenate([self._scores(rows), waiting_score])
        best = largest(score, size)
        rows, waiting = rows[best[best < len(rows)]], waiting[best[best >= len(rows)] - len(rows)]
        positions = np.concatenate([self._mine[rows], waiting])
        predicted = [
            self._dynamics.predicted(self._recent.parameters[:, rows]),
            self._dynamics.waiting.take(self._waiting.labels[waiting], axis=1),
        ]
        selection = Selection(
            ids=self._index.ids(positions),
            predicted=np.ascontiguousarray(np.concatenate(predicted, axis=1).T),
            score=score[best],
            times_sampled=self._times[positions].astype(np.int64),
            tie=self._index.ties(positions),
            behind=np.zeros(len(positions)),
        )
        return merge([selection], size)

    def _scores(self, rows: NDArray[np.integer]) -> NDArray[np.float64]:
        """The scores of recent prompts of this shard. Used-up prompts come after the others, resting ones last."""
        recent = self._recent.take(rows)
        ties = self._index.ties(self._mine[rows])
        signal = self._dynamics.scores(recent.parameters, self._signal)
        score = tempered(
            signal, self.temperature, ties, hash_key(self.seed, self.step, _OF_PROMPTS)
        )
        if self.max_uses is not None:
            score -= ROUND * recent.rounds(self.max_uses)
        rest = self.rest
        if rest is None:
            rest = self._recent.rest(self.step, _USUAL_REST, int(self._waiting.sizes.sum()))
        return score - REST * np.maximum(rest - (self.step - recent.seen_at), 0)

    # --- learning ---------------------------------------------------------------------------------

    def observe(self, mine: Observation, whole: Observation | None = None) -> None:
        """One step of the whole pool; see `Selector.observe`.

        whole: with clusters and ranks, of prompts of other shards at least.

        Raises ValueError, and changes nothing, when one of them cannot be right.
        """
        needs_counts = "PooledStore" if self.observation == "counts" else None
        seen = checked(self._index, mine, whole, needs_counts)
        whole = clustered(seen.whole, self._index, self._waiting)
        labels, ranks = whole.clusters, whole.ranks
        assert labels is not None
        assert ranks is not None
        self._signal = self._signal.after(whole)
        rows = self._recent.find(whole.ids)
        again, first = np.flatnonzero(rows >= 0), np.flatnonzero(rows < 0)
        self.step += 1
        numbers, new_numbers = self._dynamics.step(
            self._recent.parameters,
            self._recent.labels,
            rows[again],
            Found.of(whole, again),
            labels[first],
            Found.of(whole, first),
        )
        self._seen += int(np.count_nonzero(self._times[seen.positions] == 0))
        self._times[seen.positions] += 1
        lap = self._waiting.take(keys_of(labels[first], ranks[first]))
        recent = self._recent.tried_again(rows[again], self.step, numbers)
        new = Recent.tried(
            whole.ids[first], labels[first], ranks[first], self.step, lap, new_numbers
        )
        self._forget_the_oldest(recent.joined(new))

    def begin(self, evidence: Evidence) -> None:
        """Has the clusters begin with evidence, while all prompts wait; see `dps_ray.selection.evidence`."""
        for found in evidence.steps():
            self.observe(held_by(self._index, found), found)
        self._dynamics.weaken(evidence.weight)
        self._let_all_wait()

    def set_aside(self, whole: Observation) -> None:
        """Takes prompts that cannot be used out of their clusters, in which they would otherwise be the next for ever.

        whole: those of all shards, with clusters and ranks.
        """
        known = clustered(whole, self._index, self._waiting)
        self._waiting.take_for_good(step_keys(known))
        self._aside = np.union1d(self._aside, known.ids)

    def _forget_the_oldest(self, recent: Recent) -> None:
        """Keeps these recent prompts, except those tried too long ago, which wait again."""
        positions, here = self._index.find(recent.ids)
        keys = keys_of(recent.labels, recent.ranks)
        old = recent.seen_at <= self.step - max(_RECENT, self.rest or 0)
        if self.max_uses is not None:  # one that was used up again must not wait in the same lap
            old &= recent.rounds(self.max_uses) <= self._waiting.laps_of(keys)
        self._waiting.put_back(keys[old])
        self._recent = recent.take(~old)
        self._mine = np.where(here, positions, -1)[~old]

    # --- looking ----------------------------------------------------------------------------------

    def predicted(self, ids: ArrayLike) -> NDArray[np.float64]:
        """Beliefs for the next step: float64 (n, 3), P(unsolved), P(partial), P(solved) of each id."""
        positions = self._index.positions(ids)
        rows = self._recent.find(self._index.ids(positions))
        found = self._dynamics.waiting.take(self._waiting.labels[positions], axis=1)
        here = rows >= 0
        found[:, here] = self._dynamics.predicted(self._recent.parameters).take(rows[here], axis=1)
        return np.ascontiguousarray(found.T)

    def times_sampled(self, ids: ArrayLike) -> NDArray[np.int64]:
        """At how many steps each id was observed: int64 (n,)."""
        return self._times[self._index.positions(ids)].astype(np.int64)

    def metrics(self) -> dict[str, float]:
        """Returns how many prompts have a row, and were ever seen; shards may add theirs up."""
        return {
            "beliefs/active_rows": float(np.count_nonzero(self._mine >= 0)),
            "beliefs/prompts_seen": float(self._seen),
        }

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is held by prompt, rows of recent ones included."""
        parts = (self._index, self._waiting, self._times, self._mine, *self._recent)
        return sum(part.nbytes for part in parts)

    # --- keeping ----------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """The whole state: settings, clusters and recent prompts, alike in all shards, and which prompts were seen here."""
        seen = np.flatnonzero(self._times)
        return {
            **self._own_settings(),
            **self._signal.snapshot(),
            "numbering": self._clusters.numbering,
            "step": self.step,
            **{f"waiting_{name}": value for name, value in self._waiting.snapshot().items()},
            **{f"dynamics_{name}": value for name, value in self._dynamics.snapshot().items()},
            **self._recent.snapshot(),
            "aside_prompts": self._aside.copy(),
            "seen_ids": self._index.ids(seen),
            "seen_times": self._times[seen],
        }

    def _own_settings(self) -> dict[str, Any]:
        """Settings as a snapshot has them."""
        return {
            "seed": self.seed,
            "observation": self.observation,
            "group_size": self.group_size,
            "memory": self.cluster_decay,  # its name in the snapshots of earlier versions
            "decay": self.decay,
            "strength": self.strength,
            "temperature": self.temperature,
            "rest": -1 if self.rest is None else self.rest,
            "max_uses": self.max_uses or 0,
        }

    def load_state(self, snapshot: Mapping[str, Any]) -> None:
        """Goes on from a snapshot, bit-equal; see `Selector.load_state`, and `translated` for a pool that has changed."""
        check_settings(snapshot, self._own_settings())
        self._signal = self._signal.load_state(snapshot)
        snapshot = translated(snapshot, self._clusters)
        seen = self._index.distinct_positions(snapshot["seen_ids"])
        self.step = int(snapshot["step"])
        prefix = "dynamics_"
        self._dynamics.load_state(
            {name[len(prefix) :]: snapshot[name] for name in snapshot if name.startswith(prefix)}
        )
        self._recent = Recent.restore(snapshot)
        self._aside = np.array(snapshot.get("aside_prompts", self._aside))
        positions, here = self._index.find(self._recent.ids)
        self._mine = np.where(here, positions, -1)
        self._times[seen], self._seen = snapshot["seen_times"], len(seen)
        self._waiting.load_state(
            **{name: snapshot[f"waiting_{name}"] for name in self._waiting.snapshot()}
        )
