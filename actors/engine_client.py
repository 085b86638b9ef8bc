"""The calls that the learner makes to rollout engines while it sends them weights."""

import time
from collections.abc import Callable
from typing import Any

import ray

from actors.calls import collect
from dps_ray.errors import StaleError, TransferError
from dps_ray.weights import START, WeightsId


class EngineClient:
    """vLLM's `VLLMWeightSyncClient` protocol over several engine actors, with a deadline.

    vLLM's own Ray client gives every engine the same rank offset, which suits replicas of one deployment. Ours are
    separate engines, so each gets its own ranks in the transfer group.

    Every method raises TransferError when an engine died, failed or gave no answer in time, and StaleError when an
    engine has seen a later epoch.

    Args:
        timeout: seconds that a transfer may take, including the opening of the group.
    """

    def __init__(self, engines: list[Any], workers_per_engine: int, timeout: float):
        self.weights = START  # those that are sent next
        # Called with the error before a method raises it: the thread that called the method may be blocked.
        self.on_failure: Callable[[Exception], None] = lambda error: None
        # Less than all, so that the error names the engine before the wait for the whole transfer ends.
        self.timeout = 0.8 * timeout
        self._engines = engines
        self._workers = workers_per_engine
        self._deadline = 0.0

    def begin(self) -> None:
        """Start the time limit of one transfer."""
        self._deadline = time.monotonic() + self.timeout

    @property
    def seconds_left(self) -> float:
        return max(self._deadline - time.monotonic(), 0.01)

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        calls = []
        for index, engine in enumerate(self._engines):
            info = dict(init_info)
            if "rank_offset" in info:
                info["rank_offset"] += index * self._workers
            # Plain values: an actor in front of a server does not import vLLM.
            request = {"init_info": info}
            calls.append(engine.init_weight_transfer_engine.remote(request, self.weights.epoch))
        self._wait(calls, "open the transfer")

    def start_weight_update(self) -> None:
        self._wait(
            [e.start_weight_update.remote(self.weights) for e in self._engines], "start an update"
        )

    def update_weights(self, update_info: Any) -> None:
        request = ray.put({"update_info": update_info})
        self._wait([e.update_weights.remote(request) for e in self._engines], "take in weights")

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        weights = self.weights if weight_version is None else WeightsId.parse(weight_version)
        self._wait(
            [e.finish_weight_update.remote(weights) for e in self._engines], "finish an update"
        )

    def _wait(self, calls: list[Any], what: str) -> None:
        try:
            collect(calls, self.seconds_left, "receiver", what)
        except (StaleError, TransferError) as error:
            self.on_failure(error)
            raise
        except Exception as error:
            failure = self.failed(error)
            self.on_failure(failure)
            raise failure from error

    def failed(self, error: BaseException) -> TransferError:
        """Return the error of a transfer that failed for this reason."""
        return TransferError(f"weights {self.weights} did not reach the engines: {error}")
