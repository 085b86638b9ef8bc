"""What one step found out, checked before a selector takes it in."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dps_ray.pool.index import Positions, PromptIndex, as_ids
from dps_ray.states import PARTIAL, SOLVED, UNSOLVED, check_states


class Outcomes(NamedTuple):
    """What one step found out, checked.

    positions:  int64 (n,), where the prompts stand in the index of this shard
    states:     int8 (n,)
    successes:  float64 (n,), right responses of each group; NaN where they were not told
    responses:  float64 (n,), scored responses of each group; NaN likewise
    totals:     int64 (3,), prompts of the whole step, over all shards, by state
    """

    positions: Positions
    states: NDArray[np.int8]
    successes: NDArray[np.float64]
    responses: NDArray[np.float64]
    totals: NDArray[np.int64]


def checked(
    index: PromptIndex,
    ids: ArrayLike,
    states: ArrayLike,
    successes: ArrayLike | None,
    responses: ArrayLike | None,
    totals: ArrayLike | None,
    needs_counts: str | None = None,
) -> Outcomes:
    """What was given to `Selector.observe`, by the positions of `index`.

    needs_counts: the name of the method, if it learns from successes and responses.

    Raises ValueError when one of them cannot be right, or counts are missing that are needed.
    """
    ids = as_ids(ids)
    positions = index.distinct_positions(ids)
    found = check_states(states, len(positions))
    here = np.bincount(found, minlength=3)
    everywhere = here if totals is None else _integers("totals", totals, 3)
    if (everywhere < here).any():
        raise ValueError(f"the whole step has totals {everywhere}, and this shard alone {here}")
    if successes is None or responses is None:
        if successes is not responses or (needs_counts and len(ids)):
            raise ValueError(
                f"{needs_counts or 'observe'} was told states alone: give both successes and responses"
            )
        unknown = np.full(len(ids), np.nan)
        return Outcomes(positions, found, unknown, unknown, everywhere)
    right = _integers("successes", successes, len(ids))
    scored = _integers("responses", responses, len(ids))
    state = np.select([right == 0, right == scored], [UNSOLVED, SOLVED], PARTIAL)
    wrong = np.flatnonzero((scored < 1) | (right < 0) | (right > scored) | (state != found))
    if len(wrong):
        row = wrong[0]
        raise ValueError(
            f"id {ids[row]} has {right[row]} right of {scored[row]} responses and state {found[row]}: "
            "0 is none right, 1 some, 2 all, of one response at least"
        )
    return Outcomes(
        positions, found, right.astype(np.float64), scored.astype(np.float64), everywhere
    )


def _integers(name: str, values: ArrayLike, count: int) -> NDArray[np.int64]:
    given = np.asarray(values)
    if given.shape != (count,) or (count and given.dtype.kind not in "iu"):
        raise ValueError(
            f"{name} must be {count} integers, not {given.dtype} of shape {given.shape}"
        )
    return given.astype(np.int64)
