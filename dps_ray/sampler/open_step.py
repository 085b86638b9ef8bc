"""Reports of groups that are collected until a step of the pool closes."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dps_ray.beliefs.settings import StateSettings
from dps_ray.beliefs.state_rules import successes
from dps_ray.beliefs.states import Observation, observed_groups
from dps_ray.errors import SamplerError
from dps_ray.sampler.pool import among

Floats = NDArray[np.float64]


class Scored(NamedTuple):
    """The responses to one prompt that were scored.

    rewards, accuracies: float64 (k,)
    """

    rewards: Floats
    accuracies: Floats


def scored_responses(rewards: ArrayLike, accuracies: ArrayLike | None, threshold: float) -> Scored:
    """Returns the responses of a group without those that failed.

    rewards: (k,), NaN for a response without a reward.
    accuracies: (k,) in [0, 1]; None: a response is right when its reward is `threshold` or more.

    Raises:
        SamplerError: these are not k numbers, a reward is infinite, or an accuracy is outside [0, 1].
    """
    given = _numbers("rewards", rewards)
    if np.isinf(given).any():
        raise SamplerError(
            f"rewards={given.tolist()}: a reward must be finite, or NaN for a response that failed"
        )
    if accuracies is None:
        right = np.where(np.isnan(given), np.nan, (given >= threshold).astype(np.float64))
    else:
        right = _numbers("accuracies", accuracies)
        if right.shape != given.shape:
            raise SamplerError(
                f"{len(given)} rewards came with {len(right)} accuracies; give one for each response"
            )
        wrong = right[~np.isnan(right) & ~((right >= 0) & (right <= 1))]
        if len(wrong):
            raise SamplerError(f"an accuracy is {wrong[0]}; it must lie between 0 and 1")
    there = ~(np.isnan(given) | np.isnan(right))
    return Scored(given[there], right[there])


def _numbers(name: str, values: ArrayLike) -> Floats:
    try:
        given = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise SamplerError(
            f"{name}={values!r} of a group are not numbers; write NaN for a response that failed"
        ) from error
    if given.ndim != 1:
        raise SamplerError(
            f"{name} of a group have shape {given.shape}; give one number for each response"
        )
    return given


class OpenStep:
    """What was reported since the last step closed.

    The observation made from it does not depend on the order of reports, or on how responses were divided among them.
    """

    def __init__(self) -> None:
        self._groups: dict[int, list[Scored]] = {}
        self._predicted: dict[int, float] = {}
        self._settled: set[int] = set()

    def add(self, identity: int, scored: Scored) -> None:
        """Adds responses to a prompt that was settled."""
        self._groups.setdefault(identity, []).append(scored)

    def settle(self, identity: int, predicted: float) -> None:
        """Notes that a prompt was reported, or given up.

        predicted: P(partial) when it was taken, NaN if that is not known.
        """
        self._settled.add(identity)
        if np.isnan(self._predicted.get(identity, np.nan)):
            self._predicted[identity] = predicted

    @property
    def settled(self) -> set[int]:
        """Prompts that were reported or given up."""
        return self._settled

    @property
    def ids(self) -> set[int]:
        """Prompts that were observed."""
        return set(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    def __contains__(self, identity: object) -> bool:
        return identity in self._groups

    def predicted(self, ids: Iterable[int]) -> Floats:
        """P(partial) of these prompts when they were taken: float64 (n,)."""
        return np.array([self._predicted[int(i)] for i in ids], dtype=np.float64)

    def observation(self, rule: StateSettings, with_rewards: bool) -> Observation:
        """Returns what was found out, one group for each prompt."""
        ids = sorted(self._groups)
        groups = [self._joined(identity) for identity in ids]
        return observed_groups(
            ids,
            [successes(*group, rule) for group in groups],
            [group.rewards for group in groups],
            with_rewards,
        )

    def _joined(self, identity: int) -> Scored:
        """All responses to a prompt in an order of their own, so that sums do not depend on that of reports."""
        both = np.concatenate([np.stack(part) for part in self._groups[identity]], axis=1)
        rewards, accuracies = both[:, np.lexsort(both[::-1])]
        return Scored(rewards, accuracies)

    # --- keeping ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Returns the reports as arrays."""
        ids = sorted(self._groups)
        groups = [self._joined(identity) for identity in ids]
        none = np.empty(0)
        return {
            "ids": np.array(ids, dtype=np.int64),
            "sizes": np.array([len(group.rewards) for group in groups], dtype=np.int64),
            "rewards": np.concatenate([none, *(group.rewards for group in groups)]),
            "accuracies": np.concatenate([none, *(group.accuracies for group in groups)]),
            "predicted": self.predicted(ids),
            "settled": np.array(sorted(self._settled), dtype=np.int64),
        }

    @classmethod
    def restored(cls, state: Mapping[str, NDArray[Any]], known: NDArray[np.int64]) -> "OpenStep":
        """Returns the step that gave this state, without prompts that are not among the `known` ids, ascending."""
        step = cls()
        step._settled = set(state["settled"][among(state["settled"], known)].tolist())
        ends = np.cumsum(state["sizes"])
        rows = zip(
            state["ids"].tolist(),
            np.split(state["rewards"], ends[:-1]),
            np.split(state["accuracies"], ends[:-1]),
            state["predicted"].tolist(),
            among(state["ids"], known).tolist(),
            strict=False,  # `np.split` gives one empty part where there is no group
        )
        for identity, rewards, accuracies, predicted, here in rows:
            if here:
                step.settle(identity, predicted)
                step.add(identity, Scored(rewards, accuracies))
        return step
