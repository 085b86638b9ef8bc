"""GRESO: skip a prompt the more often, the longer its groups have had no variance."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dps_ray.beliefs.states import SOLVED, UNSOLVED, totals_of
from dps_ray.hashing import hash_key
from dps_ray.selection.draws import uniforms
from dps_ray.selection.methods.scored import Floats, ScoredSelector
from dps_ray.selection.outcomes import Outcomes
from dps_ray.selection.pool.index import Positions
from dps_ray.selection.selector import Context, Selector
from dps_ray.selection.settings import SelectorSettings

START = 0.5
MOVE = 0.01
LOWEST, HIGHEST = 0.05, 0.95
LEAST_KEPT = 0.01
TARGET_EASY, TARGET_HARD = (
    0.25 / 3,
    0.25 * 2 / 3,
)  # a quarter of the groups; more of the hard, which change


class GRESO(ScoredSelector):
    """GRPO with Efficient Selective Rollout (arXiv 2506.02177): probabilistic pre-rollout filtering.

        P(skip) = 1 - max(p^c, 0.01),   c the trailing visits all right (p = p_easy) or all wrong (p = p_hard)

    Prompts come in uniform epoch order, and at each epoch a prompt is skipped with that probability. Once
    the first epoch is over, p_easy (p_hard) falls by 0.01 a step when 8.33% (16.7%) or more of the step's
    groups are all right (all wrong), else rises by 0.01, within [0.05, 0.95]; both start at 0.5. Names,
    numbers and the wait for the first epoch are those of the authors' code. The loop's group filter refills.

    Selecting must change nothing, so skips are not recorded one by one. A prompt due at epoch e comes at
    e + G, where G ~ Geometric(max(p^c, 0.01)) is read off one uniform by (seed, visit, id) and today's p:

        G = floor(log(u) / log(1 - max(p^c, 0.01))),    score = -(e + G + order in that epoch, in [0, 1))

    With p at rest that is a draw at each epoch. When p rises, prompts that had been skipped may fall due
    at once; the authors' would wait for the next epoch. As p answers to the share in the batch, the share
    is what it should be; in pools far larger than a few hundred batches it swings more.

    State: next epoch and signed streak (8 bytes a prompt); p_easy, p_hard and the prompts observed by all
    shards, alike in all. Cost: O(N) a step; 10^6 prompts, most in a streak: 35 ms.

    Args:
        ids, seed: see `ScoredSelector`.
        pool: prompts in all shards together; as many observations make the first epoch. A pool that has grown since the
            snapshot begins its first epoch again if more prompts than were observed are in it.
    """

    class Settings(SelectorSettings):
        pass

    @classmethod
    def make(cls, ids: ArrayLike, settings: Any, context: Context) -> Selector:
        return cls(ids, context.seed, pool=context.pool)

    saved_for_all = ("step", "observed", "p_easy", "p_hard")
    saved_by_prompt = ("times", "due", "streak")

    def __init__(self, ids: ArrayLike, seed: int = 0, *, pool: int) -> None:
        super().__init__(ids, seed)
        if pool < len(self):
            raise ValueError(
                f"pool is {pool}, and this shard alone has {len(self)}: count all shards"
            )
        self.pool = int(pool)
        self.observed = 0  # prompts, by all shards, over all steps
        self.p_easy = self.p_hard = START
        self._due = np.zeros(len(self), dtype=np.int32)  # the epoch it enters, unless it is skipped
        self._streak = np.zeros(len(self), dtype=np.int32)  # visits all right; negative: all wrong

    def streaks(self, ids: ArrayLike) -> NDArray[np.int64]:
        """Trailing visits without variance of each id, > 0 all right, < 0 all wrong: int64 (n,)."""
        return self._streak[self._index.positions(ids)].astype(np.int64)

    def _epochs(self, positions: Positions) -> NDArray[np.int64]:
        """The epoch at which each of these prompts comes, with p as it is."""
        epochs = self._due[positions].astype(np.int64)
        held = np.flatnonzero(self._streak[positions])
        mine = positions[held]
        streak = self._streak[mine]
        longest = int(np.abs(streak).max(initial=0))
        log_skip = [
            [np.log1p(-max(p**count, LEAST_KEPT)) for count in range(1, longest + 1)]
            for p in (self.p_easy, self.p_hard)
        ]
        drawn = uniforms(self._ties[mine], hash_key(self.seed, 1), self._times[mine])
        np.log(drawn, out=drawn)
        drawn /= np.array(log_skip)[(streak < 0).astype(np.intp), np.abs(streak) - 1]
        epochs[held] += drawn.astype(np.int64)
        return epochs

    def scores(self) -> Floats:
        epochs = self._epochs(np.arange(len(self)))
        return -(epochs + uniforms(self._ties, hash_key(self.seed, 2), epochs))

    def learn(self, seen: Outcomes) -> None:
        self._due[seen.positions] = self._epochs(seen.positions) + 1
        streak = self._streak[seen.positions]
        easy, hard = seen.states == SOLVED, seen.states == UNSOLVED
        self._streak[seen.positions] = np.select(
            [easy, hard], [np.maximum(streak, 0) + 1, np.minimum(streak, 0) - 1], 0
        )
        totals = totals_of(seen.whole)
        groups = int(totals.sum())
        if groups and self.observed >= self.pool:
            shares = totals / groups
            self.p_easy = _moved(self.p_easy, shares[SOLVED] >= TARGET_EASY)
            self.p_hard = _moved(self.p_hard, shares[UNSOLVED] >= TARGET_HARD)
        self.observed += groups

    def metrics(self) -> dict[str, float]:
        """Prompts ever sampled, and those in a streak; shards may add theirs up (p_easy, p_hard not)."""
        return {
            **super().metrics(),
            "greso/easy": float(np.count_nonzero(self._streak > 0)),
            "greso/hard": float(np.count_nonzero(self._streak < 0)),
        }


def _moved(p: float, too_many: bool) -> float:
    return max(p - MOVE, LOWEST) if too_many else min(p + MOVE, HIGHEST)
