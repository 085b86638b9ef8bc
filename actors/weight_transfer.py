"""The transfer of the learner's weights to the engines, through vLLM's own weight-transfer interface.

        learner ranks                                 rollout engines
    TrainedWeights ──> trainer engine ══ broadcast ══> worker engine ──> model.load_weights
                             └── EngineClient: init, start, update, finish ──┘

On GPUs both ends are vLLM's (`nccl`, or `ipc` on a shared card). vLLM has none for the CPU; ours is in
`gloo_transfer.py`, and importing this module registers it with vLLM. `guarded_transfer.py` keeps the learner from
waiting for an engine that is lost.

A transfer group is opened for one list of engines. For another list the learner opens a new group at another port,
and an engine leaves the group it was in.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    TrainerInitInfo,
    WeightSource,
)

from actors.gloo_transfer import GlooTrainerInitInfo
from actors.lora import plain_parameters


class TrainedWeights(WeightSource):
    """The parameters of a DeepSpeed engine's module by their Hugging Face names, gathered one at a time, with adapters
    merged into them. Under ZeRO-3 that is a collective: all ranks iterate together."""

    def __init__(
        self, engine: Any, whole_weights: Callable[[Any], Iterator[tuple[str, torch.Tensor]]]
    ):
        """whole_weights: `actors.learner_files.whole_weights`, which imports DeepSpeed; engines do without."""
        self._engine = engine
        self._whole_weights = whole_weights
        self._sharded = engine.zero_optimization_stage() == 3

    def metadata(self) -> list[ParamMeta]:
        return [
            ParamMeta(name, p.dtype, tuple(p.ds_shape if self._sharded else p.shape))
            for name, p, _ in plain_parameters(self._engine.module)
        ]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return self._whole_weights(self._engine)


def trainer_init_info(
    backend: str, *, address: str, port: int, rank: int, workers: int
) -> TrainerInitInfo:
    """Return what a learner rank opens its end with.

    With gloo and nccl that is a group of the sender and all workers; with ipc only the rank, since the engine reads the
    weights in place, on the card that they share.
    """
    if backend == "gloo":
        return GlooTrainerInitInfo(address, port, workers + 1, rank=rank)
    if backend == "nccl":
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        return NCCLTrainerInitInfo(address, port, workers + 1, packed=True, rank=rank)
    from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

    # Packed, it would copy the weights, and refuse a parameter of more than 1 GiB.
    return IPCTrainerInitInfo(rank=rank, packed=False)


class RegistersGloo:
    """Extends a worker of vLLM's server by nothing: each worker imports it by name, and with it the backend."""
