"""Groups in rounds: asks for the next round of a group as soon as the one before is scored.

    first round ──> engine ──> verifier ──> RoundRule: enough?  yes: the group stays as it is
                      ▲                        │ no
                      └────── next round ──────┘

No group waits for another. The rule sees the belief about the prompt and what its own responses were, so which responses
a group has does not depend on the order in which groups are done.
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
    """The rounds of one batch.

    Args:
        requests: the prompts.
        scoring: is told of each round elsewhere, and says how it was scored.
        prior: belief about each prompt's solve rate, in the order of `requests`.
    """

    def __init__(
        self, requests: Sequence[Request], scoring: Scoring, rule: RoundRule, prior: BetaRates
    ) -> None:
        self._requests = {request.prompt_id: request for request in requests}
        self._rows = {request.prompt_id: row for row, request in enumerate(requests)}
        self._scoring, self._rule, self._prior = scoring, rule, prior
        self._unfinished: set[int] = set()  # prompts whose last round is not scored and may not be the last
        sizes = rule.first(prior).tolist()
        self.first = [
            request.round(0, size) for request, size in zip(requests, sizes, strict=True)
        ]
        """The first round of each prompt."""

    def generated(self, group: Group) -> None:
        """Note that engines have done a round, which is being scored now."""
        if group.first + len(group.responses) < self._rule.group_size:
            self._unfinished.add(group.prompt_id)

    def calls(self) -> list[Any]:
        return self._scoring.calls if self._unfinished else []

    def take(self) -> list[Request]:
        if not self._unfinished:
            return []
        found = [
            answer
            for prompt_id, answer in self._scoring.ready()
            # An error in one round drops the whole group.
            if prompt_id in self._unfinished and isinstance(answer, ScoredGroup)
        ]
        ...
