"""How far a run has come: its counters, kept in every checkpoint."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Progress:
    step: int = 0  # the last one completed
    seconds: float = 0.0  # spent in completed steps, probes and evaluations
    rollouts: int = 0  # responses generated for training and probes: what selection is charged
    tokens: int = 0  # generated for the same
    training_rollouts: int = 0
    trained_rollouts: int = 0  # of those, in groups that were sent to the learner
    distinct_prompts: int = 0
    effective: list[float] = field(default_factory=list)  # effective ratio of each step's batch
    uniform: list[float] = field(default_factory=list)  # and of each probe
    accuracy: list[dict[str, float]] = field(default_factory=list)  # mean, low, high of evaluations

    def save(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, file: Path) -> "Progress":
        return cls(**json.loads(file.read_text()))
