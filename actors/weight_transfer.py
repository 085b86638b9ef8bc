"""From the learner's weights to the engines', through vLLM's own weight-transfer interface.

        learner ranks                                 rollout engines
    TrainedWeights ──> trainer engine ══ broadcast ══> worker engine ──> model.load_weights
                             └── EngineClient: init, start, update, finish ──┘

On GPUs both engines are vLLM's (`nccl`, or `ipc` on a shared card). vLLM has none for the CPU; ours is in
`gloo_transfer.py`, and importing this module registers it with vLLM. `guarded_transfer.py` keeps the learner
from waiting for an engine that is lost.

A group is opened for one list of engines. For another list the learner opens another one, at another
port; an engine drops the group it had.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import ray
import torch
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    TrainerInitInfo,
    WeightSource,
    WeightTransferInitRequest,
    WeightTransferUpdateRequest,
)

from actors.calls import collect
from actors.gloo_transfer import GlooTrainerInitInfo
from actors.lora import plain_parameters
from dps_ray.errors import StaleError, TransferError


class TrainedWeights(WeightSource):
    """The parameters of a DeepSpeed engine's module by their Hugging Face names, made whole one at a time, and with
    their adapters merged into them. Under ZeRO-3 that is a collective: all ranks iterate, in step."""

    def __init__(self, engine: Any):
        self._engine = engine
        self._sharded = engine.zero_optimization_stage() == 3

    def metadata(self) -> list[ParamMeta]:
        return [
            ParamMeta(name, p.dtype, tuple(p.ds_shape if self._sharded else p.shape))
            for name, p, _ in plain_parameters(self._engine.module)
        ]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        from actors.learner_files import (
            whole_weights,  # imports DeepSpeed, which engines do without
        )

        return whole_weights(self._engine)


class EngineClient:
    """vLLM's `VLLMWeightSyncClient` protocol over several engine actors, with a deadline.

    vLLM's own Ray client gives every engine the same rank offset, which suits the replicas of one
    deployment; ours are separate engines, so each gets ranks of its own in the transfer group.

    Every method raises TransferError when an engine died, failed or gave no answer in time, and
    StaleError when one has seen a later epoch.

    Args:
        timeout: seconds that a transfer may take, opening the group included.
    """

    def __init__(self, engines: list[Any], workers_per_engine: int, timeout: float):
        self.version = ""  # the name of the weights that are sent next
        self.epoch = 0  # of the sender
        # Called with the error before a method raises it: whoever called that method may be blocked elsewhere.
        self.on_failure: Callable[[Exception], None] = lambda error: None
        # Whoever waits for the transfer as a whole is to hear of the engine first.
        self.timeout = 0.8 * timeout
        self._engines = engines
        self._workers = workers_per_engine
        self._deadline = 0.0

    def begin(self) -> None:
        """From now on the time of one transfer runs."""
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
            request = WeightTransferInitRequest(init_info=info)
            calls.append(engine.init_weight_transfer_engine.remote(request, self.epoch))
        self._wait(calls, "open the transfer")

    def start_weight_update(self) -> None:
        self._wait(
            [e.start_weight_update.remote(self.version, self.epoch) for e in self._engines],
            "start an update",
        )

    def update_weights(self, update_info: Any) -> None:
        request = ray.put(WeightTransferUpdateRequest(update_info=update_info))
        self._wait([e.update_weights.remote(request) for e in self._engines], "take in weights")

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        weights = weight_version or self.version
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
        return TransferError(f"weights {self.version} did not reach the engines: {error}")


def trainer_init_info(
    backend: str, *, address: str, port: int, rank: int, workers: int
) -> TrainerInitInfo:
    """What a learner rank opens its end with: with gloo and nccl a group of the sender and all workers;
    with ipc only the rank, since the engine reads the weights where they are, on the card they share."""
    if backend == "gloo":
        return GlooTrainerInitInfo(address, port, workers + 1, rank=rank)
    if backend == "nccl":
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        return NCCLTrainerInitInfo(address, port, workers + 1, packed=True, rank=rank)
    from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

    # Packed, it would copy the weights, and refuse a parameter of more than 1 GiB.
    return IPCTrainerInitInfo(rank=rank, packed=False)
