"""As `state_dynamics`, fed by counts: what clusters tell of their prompts' solve rates, and how rates move.

    F_c     = gamma_c F_c + sum of posteriors at first visits           (K, C), counts of rates
    m_c     = F_c, shrunk towards the pool's                              belief of those that wait
    Phi     = banded transitions, learned from all prompts tried again    (`dps_ray.beliefs.rates`)

As there, F is forgotten and not moved: in real runs prompts never tried did not rise with those that were
trained on (docs/comparison.md).
How far clusters are to be believed is estimated from the states that were found at first visits, which are
counts proper; posteriors lean towards what was believed before.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dps_ray.beliefs import rates
from dps_ray.beliefs.hmm import Floats
from dps_ray.selection.pooled.shrinkage import shrunk, towards_the_pool
from dps_ray.selection.pooled.state_dynamics import (
    FIRST_PRIOR,
    Found,
    Labels,
    kept,
    of_clusters,
    weakened,
)
from dps_ray.selection.signal import Signal

_BINS = 15


class RateDynamics:
    """Cluster statistics, alike in all shards; the rows of prompts are the caller's.

    A row is the posterior over 15 rates, prompts last.

    Args:
        clusters: C, how many there are.
        cluster_decay: gamma in [0, 1], the part of all counts that is kept from step to step.
        group_size: k, responses of the next group.

    `waiting` is the same as `predicted` of a waiting prompt of each cluster, (3, C).
    """

    width = _BINS

    def __init__(self, clusters: int, cluster_decay: float, group_size: int) -> None:
        self._cluster_decay, self._group_size = cluster_decay, group_size
        self._grid = rates.rate_grid(_BINS)
        self._pool = rates.initial_pool(_BINS)
        self._first = np.zeros((_BINS, clusters))
        self._first_states = np.zeros((3, clusters))
        self._refresh()

    # --- what is believed -------------------------------------------------------------------------

    def predicted(self, rows: Floats) -> Floats:
        """P(unsolved), P(partial), P(solved) at the next step of the prompts with these rows: (3, n)."""
        return rates.group_states(
            self._grid, rates.predict(self._transitions, rows), self._group_size
        )

    def scores(self, rows: Floats, signal: Signal) -> Floats:
        """The expected signal of the next groups of the prompts with these rows: (n,)."""
        return signal.of_rates(self._grid, rates.predict(self._transitions, rows))

    def waiting_scores(self, signal: Signal) -> Floats:
        """The same of a waiting prompt of each cluster: (C,)."""
        return signal.of_rates(self._grid, self._believed)

    # --- learning ---------------------------------------------------------------------------------

    def step(
        self,
        rows: Floats,
        labels: Labels,
        again: NDArray[np.integer],
        found_again: Found,
        first_labels: Labels,
        found_first: Found,
    ) -> tuple[Floats, Floats]:
        """Learns from one step, as `StateDynamics.step`, with rows of (15, n)."""
        before, coming = rows.take(again, axis=1), rates.predict(self._transitions, rows)
        predicted = coming.take(again, axis=1)
        filtered = rates.condition(predicted, self._likelihood(found_again))
        moves = rates.count_moves(self._transitions, before, predicted, filtered)
        self._pool = self._pool._replace(
            moves=self._cluster_decay * self._pool.moves + rates.pooled_sum(moves) / rates.QUANTA
        )
        coming[:, again] = filtered

        new = rates.condition(
            self._believed.take(first_labels, axis=1), self._likelihood(found_first)
        )
        part = kept(self._cluster_decay, first_labels, len(self._first.T))
        self._first *= part
        self._first_states *= part
        for one, found in zip(self._first, new, strict=True):
            np.add.at(one, first_labels, found)
        np.add.at(self._first_states, (found_first.states, first_labels), 1.0)
        self._refresh()
        return coming, new

    def _likelihood(self, found: Found) -> Floats:
        return rates.likelihood(self._grid, found.successes, found.responses)

    def weaken(self, weight: float) -> None:
        """Keeps this part of what evidence showed, as a run begins."""
        part = weakened(self._first_states, weight)
        self._first *= part
        self._first_states *= part
        self._pool = self._pool._replace(moves=weight * self._pool.moves)
        self._refresh()

    def _refresh(self) -> None:
        """Computes transitions and beliefs from the counts."""
        self._transitions = rates.transitions(self._pool)
        effective = (1 + self._cluster_decay) * self._first_states.sum(axis=0)
        strength = shrunk(self._first_states, effective, FIRST_PRIOR).strength
        prior = np.full(_BINS, 1 / _BINS)
        self._believed = towards_the_pool(self._first, effective, prior, strength).clusters
        self.waiting = rates.group_states(self._grid, self._believed, self._group_size)

    # --- keeping ----------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        return {
            "moves": self._pool.moves.copy(),
            "first": self._first.copy(),
            "first_states": self._first_states.copy(),
        }

    def load_state(self, snapshot: Mapping[str, Any]) -> None:
        """Goes on from a snapshot, which may be of a pool with fewer clusters."""
        clusters = len(self._first.T)
        self._pool = self._pool._replace(moves=np.array(snapshot["moves"]))
        self._first = of_clusters(snapshot["first"], clusters)
        self._first_states = of_clusters(snapshot["first_states"], clusters)
        self._refresh()
