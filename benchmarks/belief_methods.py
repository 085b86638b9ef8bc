"""What `benchmarks.beliefs` compares: four ways to keep the same beliefs, and a learner to observe."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dps_ray import PARTIAL, BeliefStore
from dps_ray.beliefs import hmm
from dps_ray.beliefs.priors import PRIORS
from dps_ray.beliefs.states import Observation
from dps_ray.hashing import hash_ids, hash_key

Ids = NDArray[np.int64]
States = NDArray[np.int8]
_PRIOR = PRIORS["uniform"]


class Method(Protocol):
    """Beliefs of prompts 0 to N-1."""

    def step(self, ids: Ids, states: States, size: int) -> Ids:
        """Observe a batch, look up what is now predicted of it, and choose the next."""
        ...

    def predicted(self, ids: Ids) -> NDArray[np.float64]:
        """float64 (n, 3)."""
        ...


class Ours:
    """(a) `BeliefStore`."""

    def __init__(self, store: BeliefStore) -> None:
        self.store = store

    def step(self, ids: Ids, states: States, size: int) -> Ids:
        self.store.observe(Observation(ids, states))
        self.store.predicted(ids)
        return self.store.select(size).ids

    def predicted(self, ids: Ids) -> NDArray[np.float64]:
        return self.store.predicted(ids)


class Eager:
    """(b) Every prompt every step, vectorised as one would write it: (N, 3, 3), einsum, argpartition."""

    def __init__(self, prompts: int, decay: float) -> None:
        self._decay = decay
        self._alpha = np.ones((prompts, 3, 3))
        self._posterior = np.full((prompts, 3), 1 / 3)
        self._predicted = np.full((prompts, 3), 1 / 3)

    def step(self, ids: Ids, states: States, size: int) -> Ids:
        seen = np.eye(3)[states]
        transitions = self._alpha[ids] / self._alpha[ids].sum(axis=1, keepdims=True)
        joint = seen[:, :, None] * self._posterior[ids][:, None, :] * transitions
        joint /= joint.sum(axis=(1, 2), keepdims=True)
        self._alpha *= self._decay
        self._alpha += (1 - self._decay) * _PRIOR
        self._alpha[ids] += joint
        self._posterior = self._predicted
        self._posterior[ids] = seen
        weights = self._posterior / self._alpha.sum(axis=1)
        self._predicted = np.einsum("nij,nj->ni", self._alpha, weights)
        return np.argpartition(-self._predicted[:, PARTIAL], size)[:size]

    def predicted(self, ids: Ids) -> NDArray[np.float64]:
        return self._predicted[ids]


class Sweep:
    """(b') `hmm.step` over all prompts and nothing else: what no eager method gets below."""

    def __init__(self, prompts: int, decay: float) -> None:
        self._decay = decay
        self._beliefs = hmm.initial_beliefs(prompts, [1 / 3] * 3)

    def step(self, ids: Ids, states: States, size: int) -> Ids:
        self._beliefs = hmm.step(self._beliefs, ids, states, _PRIOR, self._decay)
        return ids

    def predicted(self, ids: Ids) -> NDArray[np.float64]:
        return self._beliefs.predicted[:, ids].T


class Filter:
    """The hidden Markov model of one prompt, in small arrays."""

    def __init__(self) -> None:
        self._alpha = np.ones((3, 3))
        self._posterior = np.full(3, 1 / 3)
        self.predicted = np.full(3, 1 / 3)

    def step(self, state: int | None, decay: float) -> None:
        likelihood = np.ones(3) if state is None else np.eye(3)[state]
        posterior = likelihood * self.predicted
        posterior /= posterior.sum()
        moves = np.zeros((3, 3))
        if state is not None:
            transitions = self._alpha / self._alpha.sum(axis=0)
            moves = np.outer(posterior, self._posterior) * transitions
            moves /= moves.sum()
        self._alpha = decay * self._alpha + (1 - decay) * _PRIOR + moves
        self._posterior = posterior
        self.predicted = (self._alpha / self._alpha.sum(axis=0)) @ posterior


class Loop:
    """(c) What the published code does: a Python loop over the prompts, a filter for each."""

    def __init__(self, prompts: int, decay: float) -> None:
        self._decay = decay
        self._filters = {prompt: Filter() for prompt in range(prompts)}

    def step(self, ids: Ids, states: States, size: int) -> Ids:
        seen = dict(zip(ids.tolist(), states.tolist(), strict=True))
        for prompt, each in self._filters.items():
            each.step(seen.get(prompt), self._decay)
        ranked = sorted(self._filters, key=lambda prompt: -self._filters[prompt].predicted[PARTIAL])
        return np.array(ranked[:size])

    def predicted(self, ids: Ids) -> NDArray[np.float64]:
        return np.array([self._filters[prompt].predicted for prompt in ids.tolist()])


class DriftingLearner:
    """Outcomes of groups of 8: a skill that rises, prompts of very different difficulty, and luck.

    P(right) = logistic(skill - difficulty + luck), difficulty logistic of scale 3 and fixed to the prompt,
    luck normal of scale 1.5 and new at each step. Of what the beliefs choose about two thirds turn out
    partial, and prompts come into reach and go out of it again.
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._key = hash_key(seed, 1)  # not the key of a store's order of ties
        self._skill = -1.0

    def states(self, ids: Ids) -> States:
        """Solve states of one step: int8 (n,)."""
        self._skill += 0.02
        rank = ((hash_ids(ids, self._key) >> np.uint64(11)) + 0.5) / 2.0**53
        difficulty = 3 * np.log(rank / (1 - rank))
        luck = self._random.normal(0, 1.5, len(ids))
        right = self._random.binomial(8, 1 / (1 + np.exp(difficulty - self._skill - luck)))
        states: States = (np.minimum(right, 1) + (right == 8)).astype(np.int8)
        return states
