"""One rollout engine as the driver sees it."""

import time
from typing import Any

from actors.health import Health
from actors.managed_actor import ManagedActor
from actors.requests import Request, Sampling
from dps_ray.weights import WeightsId


class EngineHandle:
    """An engine, its health, and the call that it has to answer."""

    def __init__(self, managed: ManagedActor, health: Health) -> None:
        self.managed = managed
        self.health = health
        # The call to its start, to work, or to a probe. Answers to other calls, such as those of an earlier
        # incarnation, are ignored.
        self.call: Any = self.actor.weights.remote()
        self.number = 0  # of its call to `generate`
        self.began = 0.0  # start of that call, in Unix seconds

    @property
    def index(self) -> int:
        return self.managed.index

    @property
    def actor(self) -> Any:
        return self.managed.actor

    def generate(self, requests: list[Request], sampling: Sampling, weights: WeightsId) -> None:
        """Give work to the idle engine."""
        self.health.assigned(time.monotonic())
        self.number += 1
        self.began = time.time()
        self.call = self.actor.generate.remote(requests, sampling, weights, self.number)
