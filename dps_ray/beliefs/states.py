"""From the rewards of a group to the solve state of its prompt.

A state is made from how many of the group's responses count as right: none is unsolved, all is solved, and
some is partial. Here a response is right when its accuracy is 1; for rewards without right and wrong see
`dps_ray.beliefs.state_rules`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dps_ray.hashing import as_ids

UNSOLVED, PARTIAL, SOLVED = 0, 1, 2
UNUSABLE = -1
"""In the place of a state: the prompt was drawn and cannot be rolled out, such as one that is too long."""


class Observation(NamedTuple):
    """What one step found out about prompts that it rolled out.

    ids:        int64 (n,), without duplicates; ascending where it travels to the belief shards
    states:     int8 (n,), 0 unsolved, 1 partial, 2 solved; -1 for a prompt that cannot be used (`UNUSABLE`), which is no
                observation of it
    successes:  int16 (n,), right responses in the group; None: not known
    responses:  int16 (n,), scored responses in the group; None: not known
    clusters:   int32 (n,), the cluster of each prompt; None where prompts have no clusters
    ranks:      int32 (n,), the number of each prompt in its cluster; None where prompts have no clusters
    means:      float64 (n,), mean score of each group; None where the method does not learn from it
    deviations: float64 (n,), the scores' sample standard deviation; None where the method does not learn from it
    sources:    int16 (n,), the entry of `data.train` that each prompt is from; None without `data.weights`

    A selector takes sequences in place of arrays too: `Observation([3, 5], [1, 0])`.
    """

    ids: NDArray[np.int64]
    states: NDArray[np.integer]
    successes: NDArray[np.integer] | None = None
    responses: NDArray[np.integer] | None = None
    clusters: NDArray[np.int32] | None = None
    ranks: NDArray[np.int32] | None = None
    means: NDArray[np.float64] | None = None
    deviations: NDArray[np.float64] | None = None
    sources: NDArray[np.int16] | None = None

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> "Observation":
        """Returns the observation of these prompts only, in this order."""
        return Observation._make(None if column is None else column[rows] for column in self)

    def split(self) -> "tuple[Observation, Observation]":
        """Returns what was observed, and the prompts that cannot be used."""
        unusable = np.asarray(self.states) == UNUSABLE
        return self.take(~unusable), self.take(unusable)

    def with_unusable(self, ids: ArrayLike) -> "Observation":
        """Returns the observation, ascending by id, with prompts that cannot be used."""
        more = as_ids(ids)
        none = np.zeros(len(more), dtype=np.int16)
        unknown = np.full(len(more), np.nan)
        added = Observation(
            more,
            np.full(len(more), UNUSABLE, dtype=np.int8),
            none,
            none,
            means=unknown,
            deviations=unknown,
        )
        joined = Observation._make(
            None if mine is None else np.concatenate([mine, others])
            for mine, others in zip(self, added, strict=True)
        )
        return joined.take(np.argsort(joined.ids, kind="stable"))


def observed(
    ids: ArrayLike,
    successes: ArrayLike,
    responses: ArrayLike,
    means: ArrayLike | None = None,
    deviations: ArrayLike | None = None,
) -> Observation:
    """Returns the observation of these groups, sorted by id.

    successes, responses: int (n,), right and scored responses of each group.
    means, deviations: float (n,), of the scores of each group, if the method learns from them.

    Raises ValueError for a prompt that occurs twice, and when there is not a number for each.
    """
    unsorted = as_ids(ids)
    right, scored = (np.asarray(given, dtype=np.int16) for given in (successes, responses))
    if not len(unsorted) == len(right) == len(scored):
        raise ValueError(f"{len(unsorted)} ids came with {len(right)} groups")
    order = np.argsort(unsorted, kind="stable")
    ordered = unsorted[order]
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        raise ValueError(
            f"prompt {twice[0]} was observed twice in one step; join its groups into one"
        )
    right, scored = right[order], scored[order]

    def sorted_(given: ArrayLike | None) -> NDArray[np.float64] | None:
        return None if given is None else np.asarray(given, dtype=np.float64)[order]

    return Observation(
        ordered,
        states_of(right, scored),
        right,
        scored,
        means=sorted_(means),
        deviations=sorted_(deviations),
    )


def observed_groups(
    ids: ArrayLike,
    successes: ArrayLike,
    scores: Sequence[NDArray[np.float64]],
    with_rewards: bool = False,
) -> Observation:
    """Returns the observation of these groups, sorted by id.

    successes: int (n,), responses of each group that count as right.
    scores: of each group, one for each scored response.
    with_rewards: adds the mean and the standard deviation of the scores; the deviation of a single score is 0.

    Raises ValueError as `observed` does.
    """
    return observed(
        ids,
        successes,
        [len(group) for group in scores],
        means=[group.mean() for group in scores] if with_rewards else None,
        deviations=[group.std(ddof=1) if len(group) > 1 else 0.0 for group in scores]
        if with_rewards
        else None,
    )


def observation(ids: ArrayLike, accuracies: Sequence[ArrayLike]) -> Observation:
    """Returns the observation of groups by their accuracies: `accuracies[i]` are those of the responses to `ids[i]`.

    Raises ValueError as `observed` and `solve_states` do.
    """
    return observed(ids, *count_successes(accuracies))


def totals_of(observation: Observation) -> NDArray[np.int64]:
    """How many prompts were found unsolved, partial and solved: int64 (3,)."""
    return np.bincount(observation.states, minlength=3)


def solve_states(accuracies: Sequence[ArrayLike]) -> NDArray[np.int8]:
    """The solve state of each group: int8 (n,).

    accuracies: one array of k values for each prompt, or float (n, k). A response is right when its
    accuracy is 1 and wrong when less; partial credit is no success. UNSOLVED: none right; SOLVED: all
    right; PARTIAL: some. From accuracy, not from the shaped score: a format bonus must not make an
    all-wrong group partial.

    Raises ValueError for an empty group (a failure of the infrastructure is not a wrong answer) and for
    an accuracy that is NaN or outside [0, 1].
    """
    return states_of(*count_successes(accuracies))


def count_successes(accuracies: Sequence[ArrayLike]) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """How many responses of each group are right, and how many there are: two int16 (n,)."""
    groups = [np.asarray(group, dtype=np.float64) for group in accuracies]
    for row, group in enumerate(groups):
        if group.ndim != 1 or not len(group):
            raise ValueError(
                f"group {row} has accuracies of shape {group.shape}: one number for each response is "
                "needed, and a prompt without a scored response must not be observed"
            )
        wrong = group[~((group >= 0) & (group <= 1))]
        if len(wrong):
            raise ValueError(f"group {row} has accuracy {wrong[0]}: it must lie between 0 and 1")
    successes = np.array([np.count_nonzero(group == 1) for group in groups], dtype=np.int16)
    responses = np.array([len(group) for group in groups], dtype=np.int16)
    return successes, responses


def states_of(successes: NDArray[np.integer], responses: NDArray[np.integer]) -> NDArray[np.int8]:
    """Returns the state of each group from its right and its scored responses: int8 (n,)."""
    return np.select([successes == 0, successes == responses], [UNSOLVED, SOLVED], PARTIAL).astype(
        np.int8
    )


def check_states(states: ArrayLike, count: int) -> NDArray[np.int8]:
    """The states as int8 (count,). Raises ValueError, naming it, for a value that is no solve state."""
    given = np.asarray(states)
    if given.shape != (count,):
        raise ValueError(
            f"{count} ids came with states of shape {given.shape}: one for each is needed"
        )
    known = (given == UNSOLVED) | (given == PARTIAL) | (given == SOLVED)
    if not np.all(known):
        raise ValueError(
            f"state {given[~known][0]} is none: write 0 (unsolved), 1 (partial) or 2 (solved)"
        )
    return given.astype(np.int8)
