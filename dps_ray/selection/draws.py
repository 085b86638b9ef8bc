"""Random numbers that belong to a prompt, not to a stream: they are the same in whichever shard the prompt is.

Each is a hash of (key, prompt), or of (key, prompt, counter). NumPy's element-wise functions give an element
the same bits wherever it stands in a contiguous array, so draws are bit-equal for any split.
"""

import numpy as np
from numpy.typing import NDArray

from dps_ray.hashing import hash_ids, hash_key

Floats = NDArray[np.float64]
Hashes = NDArray[np.uint64]

_ODD = np.uint64(0xD1342543DE82EF95)  # spreads counters over the words


def uniforms(ties: Hashes, key: int, counters: NDArray[np.integer] | None = None) -> Floats:
    """One number in (0, 1) for each prompt, on a grid of 2^-52: float64 (n,).

    ties: uint64 (n,), hashes that stand for the prompts; counters: int (n,), such as the number of a visit.
    """
    words = ties if counters is None else ties + counters.astype(np.uint64) * _ODD
    drawn = (hash_ids(words.view(np.int64), key) >> np.uint64(12)).astype(np.float64)
    drawn += 0.5
    drawn *= 2.0**-52
    return drawn


def log_weights(score: Floats, temperature: float) -> Floats:
    """log score / temperature, (n,). A score below 1e-12 counts as that."""
    logs: Floats = np.log(np.maximum(score, 1e-12)) / temperature
    return logs


def tempered(score: Floats, temperature: float, ties: Hashes, key: int) -> Floats:
    """log score / temperature + Gumbel noise, (n,). The B largest are B draws without replacement by weight
    score^(1 / temperature) (Efraimidis & Spirakis 2006; Kool et al. 2019).
    """
    noisy: Floats = log_weights(score, temperature) - np.log(-np.log(uniforms(ties, key)))
    return noisy


def on_the_ring(score: Floats, temperature: float, ties: Hashes, start: int) -> Floats:
    """As `tempered`, with noise from the distance of a prompt's hash behind `start` on the ring of hashes: the nearest
    prompts have the largest noise. It is independent between prompts if `start` is independent of their hashes."""
    distance = ((ties - np.uint64(start)) >> np.uint64(12)).astype(np.float64)
    arrival = -np.log1p(-(distance + 0.5) * 2.0**-52)
    noisy: Floats = log_weights(score, temperature) - np.log(arrival)
    return noisy


def betas(a: Floats, b: Floats, ties: Hashes, key: int) -> Floats:
    """One draw of Beta(a, b) for each prompt, exact: float64 (n,); a, b >= 1.

    Cheng's algorithm BB without its squeeze steps (Generating beta variates with nonintegral shape
    parameters, 1978): 1 to 1.5 tries of two uniforms. Beta(1, 1) comes out as its first uniform.
    """
    total = a + b
    excess = 2 * a * b - total
    inverse = np.sqrt(
        np.divide(total - 2, excess, out=np.ones_like(total), where=excess > 1e-9)
    )  # its limit where a or b is 1 is 1
    slope = a + 1 / inverse
    drawn = np.empty_like(total)
    left, attempt = np.arange(len(total)), 0
    while len(left):
        first = uniforms(ties[left], hash_key(key, attempt, 1))
        second = uniforms(ties[left], hash_key(key, attempt, 2))
        logit = np.log(first / (1 - first)) * inverse[left]
        odds = a[left] * np.exp(logit)
        share = total[left] / (b[left] + odds)
        bound = total[left] * np.log(share) + slope[left] * logit - np.log(4.0)
        accepted = bound >= np.log(first * first * second)
        if attempt == 0:
            accepted |= total == 2  # Beta(1, 1): equal but for rounding
        drawn[left] = odds / (b[left] + odds)
        left, attempt = left[~accepted], attempt + 1
    return drawn


def largest(score: NDArray[np.float64], size: int) -> NDArray[np.intp]:
    """Where the `size` largest scores stand, ascending, with all that equal the least of them."""
    if not 0 < size < len(score):
        return np.arange(len(score) if size else 0)
    return np.flatnonzero(score >= np.partition(score, len(score) - size)[len(score) - size])
