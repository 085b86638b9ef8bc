"""The counters of a run, which every checkpoint holds."""

from dataclasses import dataclass, field

from pipelines.monitoring.metrics import ROLLOUTS_PER_MIXED_GROUP, TOTAL_ROLLOUTS, TOTAL_TOKENS
from pipelines.rollout.batch import Batch
from pipelines.rollout.probe import Probe


@dataclass
class Progress:
    step: int = 0  # the last one completed
    evaluated: int = -1  # the step after which accuracy was last measured
    seconds: float = 0.0  # spent in completed steps, probes and evaluations
    # Responses generated for training and probes, and before the run for selection: what selection is charged.
    rollouts: int = 0
    tokens: int = 0  # generated for the same
    training_rollouts: int = 0
    trained_rollouts: int = 0  # of those, in groups that were sent to the learner
    distinct_prompts: int = 0
    # Both since the beginning, or since an earlier version, which did not count mixed groups.
    mixed_groups: int = 0
    mixed_rollouts: int = 0  # responses generated for training meanwhile
    effective: list[float] = field(default_factory=list)  # effective ratio of each step's batch
    uniform: list[float] = field(default_factory=list)  # and of each probe
    # step, mean, low, high of evaluations
    accuracy: list[dict[str, float]] = field(default_factory=list)

    def accuracy_at(self, step: int) -> float | None:
        """Mean accuracy on held-out prompts after this step; None if it was not measured."""
        found = [each["mean"] for each in self.accuracy if each.get("step") == step]
        return found[-1] if found else None

    def add(
        self, step: int, batch: Batch, probe: Probe | None, trained: int, seconds: float
    ) -> None:
        """Counts a completed step.

        Args:
            trained: responses in groups that were sent to the learner.
            seconds: of the step, its probe included.
        """
        self.step = step
        self.seconds += seconds
        self.rollouts += batch.rollouts
        self.tokens += batch.tokens
        self.training_rollouts += batch.rollouts
        self.trained_rollouts += trained
        self.mixed_groups += batch.partial
        self.mixed_rollouts += batch.rollouts
        self.distinct_prompts += batch.distinct
        self.effective.append(batch.effective)
        if probe is not None:
            self.rollouts += probe.rollouts
            self.tokens += probe.tokens
            self.uniform.append(probe.partial)

    def charge(self, rollouts: int, tokens: int) -> None:
        """Counts responses that were generated before the run, to select its prompts."""
        self.rollouts += rollouts
        self.tokens += tokens
        self.mixed_rollouts += rollouts

    def totals(self) -> dict[str, float]:
        """What was generated so far."""
        return {TOTAL_ROLLOUTS: float(self.rollouts), TOTAL_TOKENS: float(self.tokens)}

    def metrics(self) -> dict[str, float]:
        """What a partial group has cost so far; empty before the first."""
        if not self.mixed_groups:
            return {}
        return {ROLLOUTS_PER_MIXED_GROUP: self.mixed_rollouts / self.mixed_groups}
