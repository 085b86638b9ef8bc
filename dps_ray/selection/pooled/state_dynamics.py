"""What clusters tell of their prompts' solve states, and how prompts seen lately move: arrays in, arrays out.

A prompt of cluster c that is waiting to be tried has its cluster's belief; one that was tried lately has its
own, which moves by its cluster's transitions:

    F_c     = gamma_c F_c + first visits by state                         counts of those that waited
    T_c     = gamma T_c + sum of xi over the prompts tried again          counts of moves, [to, from]
    m_c     = F_c, shrunk towards the pool's (`shrinkage`)                belief of those that wait
    Phi_c   = columns of T_c, each shrunk towards the pool's
    alpha   = kappa Phi_c + evidence                                      a prompt's own, as in `dps_ray.beliefs.hmm`

Prompts are taken from those that wait in a random order (`waiting`), so that what they show is a fair sample
of their cluster's when they are taken: F is not biased by which clusters are chosen. It grows old as the
policy moves, and so is forgotten: gamma_c is gamma in a step that brought something newer, and its fourth
root in one that did not. xi is conditioned on the state a prompt came from, by which it may have been chosen.
F is not moved by Phi_c, which tells of prompts that were trained on, rests on few of them, and would blur
what tells clusters apart.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dps_ray.beliefs import hmm
from dps_ray.beliefs.hmm import Floats
from dps_ray.beliefs.states import Observation
from dps_ray.selection.pooled.shrinkage import shrunk
from dps_ray.selection.signal import Signal

Labels = NDArray[np.integer]

# Counts of the pool before anything is seen: a third of a prompt for each state; of each from-state three
# moves, nine in ten of them to itself.
FIRST_PRIOR = np.full(3, 1 / 3)
MOST_BEGUN = 100.0  # prompts; see `weakened`
MOVES_PRIOR = 3 * (0.85 * np.eye(3) + 0.05)


class Found(NamedTuple):
    """Outcomes of some prompts: states int8 (n,), right and scored responses int64 (n,) of each."""

    states: NDArray[np.int8]
    successes: NDArray[np.int64]
    responses: NDArray[np.int64]

    @classmethod
    def of(cls, whole: Observation, rows: NDArray[np.integer]) -> "Found":
        """Returns the outcomes of these prompts of a step."""
        assert whole.successes is not None
        assert whole.responses is not None
        return cls(whole.states[rows], whole.successes[rows], whole.responses[rows])


def kept(cluster_decay: float, first_labels: Labels, clusters: int) -> Floats:
    """Returns the share of its counts of first visits that each cluster keeps over a step with these visits: (C,)."""
    visited = np.bincount(first_labels, minlength=clusters) > 0
    return np.where(visited, cluster_decay, cluster_decay**0.25)


def weakened(states: Floats, weight: float) -> Floats:
    """Returns the share of its counts of first visits that each cluster begins a run with: (C,).

    states: (3, C), the counts of evidence. A cluster begins with `MOST_BEGUN` prompts at most, so that the first steps of the
    run can outweigh any number of prompts that were evaluated before it.
    """
    total = states.sum(axis=0)
    part: Floats = weight * MOST_BEGUN / np.maximum(total, MOST_BEGUN)
    return part


def of_clusters(counts: NDArray[np.generic], clusters: int) -> NDArray[Any]:
    """Returns a copy of counts by cluster, (..., C), for this many clusters. A new cluster has none."""
    found = np.zeros((*counts.shape[:-1], clusters), dtype=counts.dtype)
    both = min(clusters, counts.shape[-1])
    found[..., :both] = counts[..., :both]
    return found


class StateDynamics:
    """Cluster statistics, alike in all shards; the rows of prompts are the caller's.

    A row is 15 numbers, prompts last: evidence (9), posterior (3), predicted (3).

    Args:
        clusters: C, how many there are.
        cluster_decay: gamma in [0, 1], the part of the clusters' counts that is kept over a step.
        decay: lambda in [0, 1], the part of a prompt's own evidence that is kept.
        strength: kappa, how many moves from a state its cluster's transitions are worth to a prompt.

    `waiting` is the same as `predicted` of a waiting prompt of each cluster, (3, C); `transitions` Phi of each
    cluster, (3, 3, C), [to, from].
    """

    width = 15

    def __init__(self, clusters: int, cluster_decay: float, decay: float, strength: float) -> None:
        self._cluster_decay, self._decay, self._strength = cluster_decay, decay, strength
        self._first = np.zeros((3, clusters))
        self._moves = np.zeros((3, 3, clusters))
        self._refresh()

    # --- what is believed -------------------------------------------------------------------------

    def predicted(self, rows: Floats) -> Floats:
        """P(unsolved), P(partial), P(solved) at the next step of the prompts with these rows: (3, n)."""
        return rows[12:]

    def scores(self, rows: Floats, signal: Signal) -> Floats:
        """The expected signal of the next groups of the prompts with these rows: (n,)."""
        return signal.of_states(self.predicted(rows))

    def waiting_scores(self, signal: Signal) -> Floats:
        """The same of a waiting prompt of each cluster: (C,)."""
        return signal.of_states(self.waiting)

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
        """Learns from one step. Returns the new rows, (15, n), and rows for the prompts that waited until now, (15, m).

        Args:
            rows: (15, n); labels: (n,), the cluster of each.
            again: which of them were tried, distinct, in an order that does not depend on shards;
                found_again: what was found of these.
            first_labels: (m,), clusters of the prompts tried that had no row, in such an order;
                found_first: what was found of these.
        """
        evidence, posterior, predicted = self._parts(rows)
        moves = hmm.count_moves(
            evidence.take(again, axis=2) + self._prior(labels[again]),
            posterior.take(again, axis=1),
            found_again.states,
        )
        evidence = self._decay * evidence
        evidence[found_again.states, :, again] += moves.T
        posterior = predicted.copy()
        posterior[:, again] = hmm.condition(found_again.states)

        self._moves *= self._cluster_decay
        for origin in range(3):
            target = self._moves[:, origin]
            np.add.at(target, (found_again.states, labels[again]), moves[origin])
        self._first *= kept(self._cluster_decay, first_labels, len(self._first.T))
        np.add.at(self._first, (found_first.states, first_labels), 1.0)
        self._refresh()

        start = hmm.condition(found_first.states)
        nothing = np.zeros((9, len(first_labels)))
        return (
            self._joined(evidence, posterior, labels),
            self._joined(nothing.reshape(3, 3, -1), start, first_labels),
        )

    def weaken(self, weight: float) -> None:
        """Keeps this part of what evidence showed, as a run begins."""
        self._first *= weakened(self._first, weight)
        self._moves *= weight
        self._refresh()

    def _refresh(self) -> None:
        """Computes transitions and beliefs from the counts."""
        totals = self._moves.sum(axis=0)
        self.transitions = np.stack(
            [shrunk(self._moves[:, j], totals[j], MOVES_PRIOR[:, j]).clusters for j in range(3)],
            axis=1,
        )
        # Of a steady stream of visits, decayed counts have the variance of as many whole ones.
        effective = (1 + self._cluster_decay) * self._first.sum(axis=0)
        self.waiting = shrunk(self._first, effective, FIRST_PRIOR).clusters

    def _prior(self, labels: Labels) -> Floats:
        return self._strength * self.transitions.take(labels, axis=2)

    def _parts(self, rows: Floats) -> hmm.Beliefs:
        return hmm.Beliefs(rows[:9].reshape(3, 3, -1), rows[9:12], rows[12:])

    def _joined(self, evidence: Floats, posterior: Floats, labels: Labels) -> Floats:
        predicted = hmm.predict(evidence + self._prior(labels), posterior)
        return np.concatenate([evidence.reshape(9, len(labels)), posterior, predicted])

    # --- keeping ----------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        return {"first": self._first.copy(), "moves": self._moves.copy()}

    def load_state(self, snapshot: Mapping[str, Any]) -> None:
        """Goes on from a snapshot, which may be of a pool with fewer clusters."""
        clusters = len(self._first.T)
        self._first = of_clusters(snapshot["first"], clusters)
        self._moves = of_clusters(snapshot["moves"], clusters)
        self._refresh()
