"""The groups that one step rolled out, and the observation and metrics made from them."""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dps_ray import PARTIAL, SOLVED, UNSOLVED, Selection
from dps_ray.beliefs.prediction import prediction_metrics
from dps_ray.beliefs.states import Observation, observed_groups
from dps_ray.errors import DPSError
from dps_ray.groups import Response, ScoredGroup
from dps_ray.objective.advantages import carries_gradient


@dataclass
class Batch:
    """All groups of a step in the order of selection, including refills."""

    scored: list[ScoredGroup] = field(default_factory=list)
    errors: list[DPSError] = field(default_factory=list)  # one for each dropped group
    rollouts: int = 0  # responses generated, including those of failed groups
    tokens: int = 0
    distinct: int = 0  # prompts never observed before this step
    _selected: list[np.ndarray] = field(default_factory=list)
    _predicted: list[np.ndarray] = field(default_factory=list)  # (3,) for each entry of `scored`

    def add(
        self, selection: Selection, answers: Sequence[ScoredGroup | DPSError], generated: int
    ) -> None:
        """Adds the results of a selection, one for each of its prompts. `generated`: responses generated for them."""
        self._selected.append(selection.ids)
        self.rollouts += generated
        for row, answer in enumerate(answers):
            if isinstance(answer, DPSError):
                self.errors.append(answer)
                continue
            self.scored.append(answer)
            self.tokens += sum(r.generated for r in answer.group.responses)
            self._predicted.append(selection.predicted[row])
            self.distinct += int(selection.times_sampled[row] == 0)

    @property
    def tried(self) -> np.ndarray:
        """The ids selected in this step so far, int64."""
        return np.concatenate([np.empty(0, dtype=np.int64), *self._selected])

    @property
    def partial(self) -> int:
        return sum(group.state == PARTIAL for group in self.scored)

    @property
    def effective(self) -> float:
        """The fraction of partial groups among the scored groups."""
        return self.partial / len(self.scored)

    def staleness(self, version: int) -> NDArray[np.int64]:
        """How many weight versions each scored group lags behind `version`: int64 (scored groups,).

        Args:
            version: the version of the weights that are about to be trained.
        """
        sampled = [scored.group.weights.version for scored in self.scored]
        return version - np.array(sampled, dtype=np.int64)

    def sizes_without(self, ids: Container[int]) -> list[int]:
        """Returns the sizes of the scored groups, without those of these prompts."""
        return [len(each.scores) for each in self.scored if each.group.prompt_id not in ids]

    @property
    def predicted(self) -> NDArray[np.float64]:
        """The states that were predicted for each scored group: (scored groups, 3), NaN where nothing was."""
        return np.stack(self._predicted)

    def metrics(self) -> dict[str, float]:
        """Metrics of rewards, solve states, lengths and prediction quality, with the names used by verl and DPS. The
        batch must have at least one scored group."""
        scores = np.concatenate([scored.scores for scored in self.scored])
        equal = [not carries_gradient(scored.scores) for scored in self.scored]
        accuracies = np.concatenate([scored.accuracies for scored in self.scored])
        states = np.array([scored.state for scored in self.scored], dtype=np.int8)
        responses = [r for scored in self.scored for r in scored.group.responses]
        lengths = np.array([len(r.tokens) for r in responses])
        return {
            "critic/rewards/mean": float(scores.mean()),
            "critic/rewards/max": float(scores.max()),
            "critic/rewards/min": float(scores.min()),
            "acc/mean": float(accuracies.mean()),
            "batch/solve_none": float((states == UNSOLVED).mean()),
            "batch/solve_all": float((states == SOLVED).mean()),
            "tasksample/partial_solve_ratio": self.effective,
            "frac_reward_zero_std": float(np.mean(equal)),
            "rollout/group_size_mean": len(scores) / len(self.scored),
            "response_length/mean": float(lengths.mean()),
            "response_length/max": float(lengths.max()),
            "response_length/clip_ratio": float(np.mean([r.truncated for r in responses])),
            "rollouts/skipped": float(len(self.errors)),
            **_turn_metrics(responses),
            **prediction_metrics(self.predicted, states),
        }


def _turn_metrics(responses: Sequence[Response]) -> dict[str, float]:
    """Metrics of episodes over several turns; none for responses that were written in one."""
    if all(response.written is None for response in responses):
        return {}
    turns = np.array([response.turns for response in responses])
    tokens = sum(len(response.tokens) for response in responses)
    return {
        "environment/turns_mean": float(turns.mean()),
        "environment/turns_max": float(turns.max()),
        "environment/truncated": float(np.mean([response.truncated for response in responses])),
        "environment/written_share": sum(r.generated for r in responses) / max(tokens, 1),
    }


def observation_of(scored: Sequence[ScoredGroup], with_rewards: bool = False) -> Observation:
    """The observation of these groups. `with_rewards` adds the mean and standard deviation of the scores."""
    return observed_groups(
        np.array([each.group.prompt_id for each in scored], dtype=np.int64),
        [each.successes for each in scored],
        [each.scores for each in scored],
        with_rewards,
    )
