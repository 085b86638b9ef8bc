"""What one step found out, checked before a selector takes it in."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dps_ray.beliefs.states import Observation, check_states, states_of
from dps_ray.hashing import as_ids
from dps_ray.selection.pool.index import Positions, PromptIndex

Floats = NDArray[np.float64]


class Outcomes(NamedTuple):
    """What one step found out, checked.

    positions:  int64 (n,), where the prompts stand in the index of this shard
    states:     int8 (n,)
    successes:  float64 (n,), right responses of each group; NaN if not known
    responses:  float64 (n,), scored responses of each group; NaN if not known
    whole:      what the step found over all shards; counts that are not known are -1
    """

    positions: Positions
    states: NDArray[np.int8]
    successes: Floats
    responses: Floats
    whole: Observation


def checked(
    index: PromptIndex,
    mine: Observation,
    whole: Observation | None,
    needs_counts: str | None = None,
) -> Outcomes:
    """Returns what was given to `Selector.observe`, by the positions of `index`.

    needs_counts: the name of the method, if it learns from successes and responses.

    Raises ValueError when one of them cannot be right, or counts are missing that are needed.
    """
    ids = as_ids(mine.ids)
    positions = index.distinct_positions(ids)
    found = check_states(mine.states, len(positions))
    if mine.successes is None or mine.responses is None:
        if mine.successes is not mine.responses or (needs_counts and len(ids)):
            raise ValueError(
                f"{needs_counts or 'observe'} was told states alone: give both successes and responses"
            )
        right = scored = np.full(len(ids), np.nan)
    else:
        right, scored = _counts(ids, found, mine.successes, mine.responses)
    if whole is None:
        whole = mine._replace(
            ids=ids,
            states=found,
            successes=_whole_numbers(right),
            responses=_whole_numbers(scored),
        )
    else:
        if whole.successes is None or whole.responses is None:
            untold = np.full(len(whole.ids), -1, dtype=np.int16)
            whole = whole._replace(successes=untold, responses=untold)
        theirs, here = index.find(whole.ids)
        if not np.array_equal(np.sort(theirs[here]), np.sort(positions)):
            raise ValueError("the whole step holds other prompts of this shard than were given")
    whole = whole.take(np.argsort(whole.ids, kind="stable"))
    return Outcomes(positions, found, right, scored, whole)


def _counts(
    ids: NDArray[np.int64], found: NDArray[np.int8], successes: ArrayLike, responses: ArrayLike
) -> tuple[Floats, Floats]:
    right = _integers("successes", successes, len(ids))
    scored = _integers("responses", responses, len(ids))
    wrong = np.flatnonzero(
        (scored < 1) | (right < 0) | (right > scored) | (states_of(right, scored) != found)
    )
    if len(wrong):
        row = wrong[0]
        raise ValueError(
            f"id {ids[row]} has {right[row]} right of {scored[row]} responses and state {found[row]}: "
            "0 is none right, 1 some, 2 all, of one response at least"
        )
    return right.astype(np.float64), scored.astype(np.float64)


def _integers(name: str, values: ArrayLike, count: int) -> NDArray[np.int64]:
    given = np.asarray(values)
    if given.shape != (count,) or (count and given.dtype.kind not in "iu"):
        raise ValueError(
            f"{name} must be {count} integers, not {given.dtype} of shape {given.shape}"
        )
    return given.astype(np.int64)


def _whole_numbers(counts: Floats) -> NDArray[np.int16]:
    return np.nan_to_num(counts, nan=-1).astype(np.int16)
