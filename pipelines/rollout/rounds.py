"""Groups in rounds: asks for the next round of a group as soon as the one before is scored.

    first round ──> engine ──> verifier ──> RoundRule ── enough ──> the group is done
                      ▲                         │
                      └─────── next round ──────┘

No group waits for another. Whether a group goes on follows from its own responses and from the belief of before the batch,
so the order in which groups are done changes nothing.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from actors.requests import Request
from actors.verifier import Scoring
from dps_ray.beliefs.beta_rates import BetaRates
from dps_ray.groups import Group, ScoredGroup
from dps_ray.selection.rounds import RoundRule


class Rounds:
    """The rounds of one batch, as `Rollouts.generate` asks for them.

    Args:
        requests: the prompts.
        prior: belief about the solve rate of each prompt, in the order of `requests`.
        scoring: of the batch; each round is added to it before `generated` is called.
    """

    def __init__(
        self, requests: Sequence[Request], rule: RoundRule, prior: BetaRates, scoring: Scoring
    ) -> None:
        self._requests, self._rule, self._prior, self._scoring = requests, rule, prior, scoring
        self._rows = {request.prompt_id: row for row, request in enumerate(requests)}
        self._successes = np.zeros(len(requests), dtype=np.int64)  # of the rounds that are scored
        self._responses = np.zeros(len(requests), dtype=np.int64)
        self._unscored: set[int] = set()  # prompts whose newest round may be followed by another
        self.first = self._rounds(range(len(requests)), rule.first(prior))
        """The first round of each prompt."""

    def generated(self, group: Group) -> None:
        """Note that this round was generated, and is being scored."""
        if group.first + len(group.responses) < self._rule.group_size:
            self._unscored.add(group.prompt_id)

    def calls(self) -> list[Any]:
        return self._scoring.calls if self._unscored else []

    def take(self) -> list[Request]:
        if not self._unscored:
            return []
        rows = []
        for prompt_id, answer in self._scoring.ready():
            # A group with an error in one of its rounds is dropped, so it needs no other.
            if prompt_id in self._unscored and isinstance(answer, ScoredGroup):
                row = self._rows[prompt_id]
                self._successes[row], self._responses[row] = answer.successes, len(answer.scores)
                rows.append(row)
            self._unscored.discard(prompt_id)
        if not rows:
            return []
        # All prompts are asked about together: a rule may keep what it found out about this prior.
        sizes = self._rule.next(self._prior, self._successes, self._responses)
        return self._rounds([row for row in rows if sizes[row] > 0], sizes)

    def _rounds(self, rows: Sequence[int], sizes: np.ndarray) -> list[Request]:
        return [
            self._requests[row].round(int(self._responses[row]), int(sizes[row])) for row in rows
        ]
