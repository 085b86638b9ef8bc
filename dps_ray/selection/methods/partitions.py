"""DPS with other solve states than three: for ablations, in simulation."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dps_ray.selection.methods.scored import Floats, ScoredSelector
from dps_ray.selection.outcomes import Outcomes
from dps_ray.selection.pool.index import Positions

# By number of states, where (0, 1) is cut; {0} and {1} are states of their own, but one where there are two.
CUTS: dict[int, tuple[float, ...]] = {2: (), 3: (), 5: (1 / 3, 2 / 3), 7: (0.2, 0.4, 0.6, 0.8)}
_DECIMALS = 12  # equal histories score alike, in whatever order a sum was taken


class PartitionedHMM(ScoredSelector):
    """The hidden Markov model of `dps_ray.beliefs.hmm` over S states of the success rate, one for each prompt.

        S = 2: {0, 1}, (0, 1)                         S = 3: {0}, (0, 1), {1}: `BeliefStore`
        S = 5: {0}, (0, 1/3), [1/3, 2/3], (2/3, 1), {1}
        S = 7: {0}, (0, .2), [.2, .4), [.4, .6], (.6, .8], (.8, 1), {1}
        score = total belief in the states inside (0, 1)

    Prior counts are all 1 and the first belief is 1/S each, so a prompt never seen stays there. It sweeps
    over all prompts each step, O(N S^2): 12,000 prompts and 7 states take 8 ms. State: S^2 + 2S numbers
    a prompt.

    Args:
        ids, seed: see `ScoredSelector`.
        states: S, one of 2, 3, 5, 7.
        decay: lambda in [0, 1], the part of the evidence that is kept from step to step.
    """

    saved_settings = ("seed", "states", "decay")
    saved_by_prompt = ("times", "evidence", "posterior", "belief")
    learns_from_counts = True

    def __init__(
        self, ids: ArrayLike, seed: int = 0, *, states: int = 3, decay: float = 0.7
    ) -> None:
        if states not in CUTS:
            raise ValueError(f"there is no partition into {states}: write one of {[*CUTS]}")
        if not 0 <= decay <= 1:
            raise ValueError(f"decay must lie between 0 and 1, not {decay!r}")
        super().__init__(ids, seed)
        self.states, self.decay = int(states), float(decay)
        self._mixed = slice(1, max(2, states - 1))
        self._evidence = np.zeros(
            (len(self), states, states)
        )  # [prompt, to, from], without the prior
        self._posterior = np.full((len(self), states), 1 / states)
        self._belief = self._posterior.copy()  # of the next step

    def states_of(self, successes: Floats, responses: Floats) -> NDArray[np.int64]:
        """The state of each group: int64 (n,), 0 to S - 1. A cut belongs to the side nearer 1/2."""
        rate = successes / responses
        inside = 1 + sum(
            (rate >= cut if cut < 0.5 else rate > cut).astype(np.int64) for cut in CUTS[self.states]
        )
        last = self.states - 1 if self.states > 2 else 0
        return np.select([successes == 0, successes == responses], [0, last], inside)

    def beliefs(self, ids: ArrayLike) -> Floats:
        """Of each state at the next step: float64 (n, S)."""
        return self._belief[self._index.positions(ids)]

    def learn(self, seen: Outcomes) -> None:
        mine, states = seen.positions, self.states_of(seen.successes, seen.responses)
        moves = _transitions(self._evidence[mine])[np.arange(len(mine)), states]
        moves *= self._posterior[mine]
        self._evidence *= self.decay
        self._evidence[mine, states] += moves / moves.sum(axis=1, keepdims=True)
        self._posterior = self._belief
        self._posterior[mine] = np.eye(self.states)[states]
        self._belief = np.einsum("nij,nj->ni", _transitions(self._evidence), self._posterior)

    def scores(self) -> Floats:
        mixed: Floats = np.round(self._belief[:, self._mixed].sum(axis=1), _DECIMALS)
        return mixed

    def _predicted(self, positions: Positions) -> Floats:
        if self.states == 2:
            return super()._predicted(positions)  # unsolved and solved are one
        belief = self._belief[positions]
        mixed = belief[:, self._mixed].sum(axis=1)
        return np.stack([belief[:, 0], mixed, belief[:, -1]], axis=-1)


def _transitions(evidence: Floats) -> Floats:
    """E[Phi], its columns summing to 1: (n, S, S)."""
    counts = evidence + 1
    expected: Floats = counts / counts.sum(axis=1, keepdims=True)
    return expected
