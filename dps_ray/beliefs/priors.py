"""What is believed before anything is seen: transition counts alpha_0 and the first belief."""

import numpy as np
from numpy.typing import ArrayLike

from dps_ray.beliefs.hmm import Floats

# The published priors, columns being from-states. "progress": staying or moving up is likelier than
# falling back; "stability": staying is; "local": states move by one at a time.
PRIORS: dict[str, Floats] = {
    "uniform": np.ones((3, 3)),
    "progress": np.array([[1.0, 0.5, 0.5], [1.0, 1.0, 0.5], [1.0, 1.0, 1.0]]),
    "stability": np.array([[1.0, 0.5, 0.5], [0.5, 1.0, 0.5], [0.5, 0.5, 1.0]]),
    "local": np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]]),
}


def prior_counts(prior: str | ArrayLike) -> Floats:
    """alpha_0, float64 (3, 3), [to, from]: from a published name or an array.

    Raises ValueError for another name or shape, a count that is negative or not finite, and a column of
    zeros.
    """
    if isinstance(prior, str):
        if prior not in PRIORS:
            raise ValueError(
                f"prior {prior!r} is unknown; write one of {', '.join(PRIORS)}, or a 3 x 3 array"
            )
        return PRIORS[prior].copy()
    alpha = np.array(prior, dtype=np.float64)
    if alpha.shape != (3, 3):
        raise ValueError(f"prior must be 3 x 3, [to, from], and is of shape {alpha.shape}")
    wrong = alpha[~((alpha >= 0) & np.isfinite(alpha))]
    if len(wrong):
        raise ValueError(f"prior holds {wrong[0]}: counts must be finite and not negative")
    for state in np.flatnonzero(~alpha.any(axis=0)):
        raise ValueError(
            f"prior's column {state} is all zeros: from every state one goes somewhere"
        )
    return alpha


def initial_belief(initial: ArrayLike | None) -> Floats:
    """The belief before the first step, float64 (3,): 1/3 each unless given.

    Raises ValueError when it is not a distribution over the three states.
    """
    if initial is None:
        return np.full(3, 1 / 3)
    belief = np.array(initial, dtype=np.float64)
    if belief.shape != (3,) or not (belief >= 0).all() or not abs(belief.sum() - 1) < 1e-6:
        raise ValueError(f"initial must be 3 probabilities that sum to 1, not {belief.tolist()}")
    return belief
