"""Draws without replacement from a pool of a few large classes. The cost depends on the number of draws alone.

A prompt of weight w arrives at a time that is exponential with rate w; the first B to arrive are a weighted
sample without replacement (the exponential race; with w = s^(1/T) it is the Gumbel top-B of log s / T). Ranked is

    score = -log(arrival) = log s / T + Gumbel noise

Prompts that wait in one cluster all have one weight and stand in a random order, so that order
decides which of them arrives first, and only the times need drawing: the first of n arrives after X_0 / n, the next
X_1 / (n - 1) later, and so on, the X being standard exponentials. They belong to (seed, step, cluster, number),
so every shard draws the same ones.
"""

import numpy as np
from numpy.typing import NDArray

from dps_ray.beliefs.hmm import Floats
from dps_ray.selection.coverage import ROUND
from dps_ray.selection.draws import uniforms
from dps_ray.selection.pool.index import Positions
from dps_ray.selection.pooled.waiting import Keys, Waiting

_NUMBER_BITS = 32
_WIDEST = 256  # arrivals of one cluster looked at together


def first_waiting(
    waiting: Waiting,
    log_weights: Floats,
    size: int,
    key: int,
    excluded: Positions,
    laps: bool,
) -> tuple[Positions, Floats]:
    """Returns the `size` waiting prompts of this shard that arrive first, and their scores, in no order.

    All of them if there are fewer; there may be some more.

    Args:
        log_weights: (C,), of one waiting prompt of each cluster.
        excluded: positions of prompts to pass over. Their arrivals are not given to other prompts.
        laps: whether a prompt of a later lap around its ring comes after all those of earlier laps.
    """
    rings = np.flatnonzero((waiting.here > 0) & (waiting.counts > 0))
    runners = _Runners(waiting, log_weights, key, laps, rings)
    positions, scores = [np.empty(0, dtype=np.int64)], [np.empty(0)]
    bound, width = -np.inf if size else np.inf, 1
    while True:
        runners.keep(runners.score >= bound)
        if not len(runners.rings):
            break
        found, score = runners.run(runners.first(2 * size + 1), width)
        free = found >= 0
        if len(excluded):
            free &= ~np.isin(found, excluded)
        positions.append(found[free])
        scores.append(score[free])
        so_far = np.concatenate(scores)
        if len(so_far) >= size > 0:
            bound = np.partition(so_far, len(so_far) - size)[len(so_far) - size]
        width = min(2 * width, _WIDEST)
    return np.concatenate(positions), np.concatenate(scores)


class _Runners:
    """Rings, each at its next arrival.

    rings:  int64 (a,), clusters
    number: int64 (a,), from the head of the ring
    time:   (a,), of the arrival if the weight were 1
    score:  (a,)
    """

    def __init__(
        self, waiting: Waiting, log_weights: Floats, key: int, laps: bool, rings: NDArray[np.int64]
    ) -> None:
        self._waiting, self._log_weights, self._key, self._laps = waiting, log_weights, key, laps
        self.rings, self.number = rings, np.zeros_like(rings)
        self.time = self._gaps(self.rings, self.number)
        self.score = self._scores(self.rings, self.number, self.time)[1]

    def keep(self, kept: NDArray[np.bool_]) -> None:
        self.rings, self.number = self.rings[kept], self.number[kept]
        self.time, self.score = self.time[kept], self.score[kept]

    def first(self, count: int) -> NDArray[np.intp]:
        """Rows of the `count` rings whose next arrival is first, in no order."""
        if count >= len(self.score):
            return np.arange(len(self.score))
        return np.argpartition(-self.score, count)[:count]

    def run(self, rows: NDArray[np.intp], width: int) -> tuple[Positions, Floats]:
        """Returns the next `width` arrivals of each of these rings, or all of them if fewer wait: positions, -1 for prompts
        of other shards, and scores."""
        rings, number = self.rings[rows], self.number[rows]
        numbers = number[:, None] + np.arange(width + 1)
        wide = np.broadcast_to(rings[:, None], numbers.shape)
        times = self._gaps(wide.ravel(), numbers.ravel()).reshape(numbers.shape)
        times[:, 0] = self.time[rows]
        np.add.accumulate(times, axis=1, out=times)  # in order, so the same however many at once
        self.number[rows], self.time[rows] = numbers[:, -1], times[:, -1]
        there = numbers < self._waiting.counts[rings][:, None]
        score = np.full(numbers.shape, -np.inf)
        keys, score[there] = self._scores(wide[there], numbers[there], times[there])
        self.score[rows] = score[:, -1]
        now = np.broadcast_to(np.arange(width + 1) < width, numbers.shape)[there]
        found = self._waiting.here_at(keys[now])
        self.keep(self.score > -np.inf)
        return found, score[:, :-1][there[:, :-1]]

    def _gaps(self, rings: NDArray[np.integer], number: NDArray[np.integer]) -> Floats:
        """Time from the previous arrival of the ring to this one."""
        words = (rings.astype(np.uint64) << np.uint64(_NUMBER_BITS)) | number.astype(np.uint64)
        left = np.maximum(self._waiting.counts[rings] - number, 1)
        gaps: Floats = -np.log(uniforms(words, self._key)) / left
        return gaps

    def _scores(
        self, rings: NDArray[np.integer], number: NDArray[np.integer], time: Floats
    ) -> tuple[Keys, Floats]:
        """Keys of the prompts that arrive, and their scores."""
        keys, lap = self._waiting.find(rings, number)
        score = self._log_weights[rings] - np.log(time)
        if self._laps:
            score -= ROUND * lap
        return keys, score
