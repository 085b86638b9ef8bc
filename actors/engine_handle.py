"""One rollout engine as the driver sees it, and how it is started."""

import time
from collections.abc import Callable
from typing import Any

from actors.engine_setup import EngineSetup, engine_environment
from actors.health import Health
from actors.managed_actor import ManagedActor
from actors.process import environment
from actors.requests import Request, Sampling
from actors.rollout_engine import RolloutEngine
from actors.server_setup import ServerSetup
from dps_ray.config import Config
from dps_ray.config.evaluation import EvaluationConfig
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


def engine_starts(
    config: Config | EvaluationConfig,
    setup: EngineSetup,
    servers: ServerSetup | None,
    place: Callable[[int], dict[str, Any]],
) -> list[Callable[[int], Any]]:
    """Return, for each engine of a run, a function that starts a given incarnation of it.

    Args:
        servers: what generates instead of engines; None: engines do.
        place: returns, for the index of an engine, the Ray options that say where it runs, and with what.
    """
    kind: Any
    given: EngineSetup | ServerSetup
    if servers is None:
        kind, given = RolloutEngine, setup
        count, variables = config.resources.rollout.engines, engine_environment(config)
    else:
        from actors.served_engine import ServedEngine  # with httpx, which other runs do without

        kind, given = ServedEngine, servers
        count, variables = len(servers.addresses), environment(threads=1)

    def start(index: int) -> Callable[[int], Any]:
        options = kind.options(**place(index), runtime_env=variables)
        return lambda incarnation: options.remote(given, index, incarnation)

    return [start(index) for index in range(count)]
