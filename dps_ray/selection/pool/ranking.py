"""What prompts are ranked by: a score, larger first; among equals (times sampled, position).

Positions are those of `PromptIndex`, in the order of the seeded hash. Both halves of the rule for equals
fit in one integer, the *key*: 22 bits of times sampled, 31 of position. That makes 53, which a double
holds exactly, so that a whole *rank* fits in one complex number, -score + i key: NumPy sorts these by the
real part, then by the imaginary one, and smaller is better.
"""

import numpy as np
from numpy.typing import NDArray

from dps_ray.beliefs.hmm import Floats, entropy
from dps_ray.selection.pool.index import POSITION_BITS
from dps_ray.selection.signal import Signal

Keys = NDArray[np.int64]
Ranks = NDArray[np.complex128]

_ONE_SAMPLE = 1 << POSITION_BITS

_SCORE_DECIMALS = 12


def scores(predicted: Floats, entropy_weight: float, signal: Signal) -> Floats:
    """The signal + entropy_weight * entropy of the prediction, rounded to 12 decimals: (3, n) -> (n,).

    Histories that lead to equal beliefs by different sums (seen solved or seen unsolved, under a
    symmetric prior) differ in the last bit. Rounded they are equal, as on paper, and the rule for equals
    decides, least-sampled first, instead of the rounding of a division.
    """
    value = signal.of_states(predicted)
    if entropy_weight:
        value = value + entropy_weight * entropy(predicted)
    rounded: Floats = np.round(value, _SCORE_DECIMALS)
    return rounded


def keys(times: NDArray[np.integer], positions: NDArray[np.integer]) -> Keys:
    """(times sampled, position) as one integer each: int64 (n,)."""
    return times.astype(np.int64) << POSITION_BITS | positions


def positions_of(keys: Keys) -> NDArray[np.int64]:
    return keys & (_ONE_SAMPLE - 1)


def times_of(keys: Keys) -> NDArray[np.int64]:
    return keys >> POSITION_BITS


def ranks(score: Floats, keys: Keys) -> Ranks:
    """(-score, key) as one number each: complex128 (n,)."""
    return np.asarray(-score + 1j * keys, dtype=np.complex128)


def keys_of(ranks: Ranks) -> Keys:
    return ranks.imag.astype(np.int64)


def best(ranks: Ranks, size: int) -> NDArray[np.intp]:
    """Where the `size` best stand, in no order; all, where there are fewer. O(n)."""
    if size >= len(ranks):
        return np.arange(len(ranks))
    return np.argpartition(ranks, size)[:size]
