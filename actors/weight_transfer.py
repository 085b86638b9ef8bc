"""From the learner's weights to the engines', through vLLM's own weight-transfer interface.

        learner ranks                                 rollout engines
    TrainedWeights ──> trainer engine ══ broadcast ══> worker engine ──> model.load_weights
                             └── EngineClient: start, update, finish(version) ──┘

On GPUs both engines are vLLM's (`nccl`, or `ipc` on a shared card). vLLM has none for the CPU; this
module registers one with its two factories, `gloo`: a broadcast over a process group of its own, so
that the default groups of vLLM and DeepSpeed stay untouched. Importing the module registers it.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, ClassVar

import ray
import torch
import torch.distributed as dist
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    WeightSource,
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferInitRequest,
    WeightTransferUpdateInfo,
    WeightTransferUpdateRequest,
)
from vllm.distributed.weight_transfer.factory import (
    WeightTransferEngineFactory,
    WeightTransferTrainerFactory,
)
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)

BUCKET_BYTES = 256 * 2**20  # parameters are broadcast in flat buffers of about this size


class TrainedWeights(WeightSource):
    """The parameters of a DeepSpeed engine's module by their Hugging Face names, made whole one at a
    time. Under ZeRO-3 that is a collective: all ranks iterate, in step."""

    def __init__(self, engine: Any):
        self._engine = engine
        self._sharded = engine.zero_optimization_stage() == 3

    def metadata(self) -> list[ParamMeta]:
        return [
            ParamMeta(name, p.dtype, tuple(p.ds_shape if self._sharded else p.shape))
            for name, p in self._engine.module.named_parameters()
        ]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        import deepspeed

        for name, parameter in self._engine.module.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter], enabled=self._sharded):
                whole = parameter.detach()
                yield name, whole.clone() if self._sharded else whole


class EngineClient:
    """vLLM's `VLLMWeightSyncClient` protocol over several engine actors, with a deadline.

    vLLM's own Ray client gives every engine the same rank offset, which suits the replicas of one
    deployment; ours are separate engines, so each gets ranks of its own in the transfer group.
    """

    def __init__(self, engines: list[Any], workers_per_engine: int, timeout: float):
        self.version = 0  # what the engines are told they hold, once an update is finished
        self._engines = engines
        self._workers = workers_per_engine
        self._timeout = timeout

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        calls = []
        for index, engine in enumerate(self._engines):
            info = dict(init_info)
            if "rank_offset" in info:
                info["rank_offset"] += index * self._workers
            request = WeightTransferInitRequest(init_info=info)
            calls.append(engine.init_weight_transfer_engine.remote(request))
        ray.get(calls, timeout=self._timeout)

    def start_weight_update(self) -> None:
        ray.get([e.start_weight_update.remote() for e in self._engines], timeout=self._timeout)

    def update_weights(self, update_info: Any) -> None:
        request = ray.put(WeightTransferUpdateRequest(update_info=update_info))
        ray.get([e.update_weights.remote(request) for e in self._engines], timeout=self._timeout)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        version = weight_version or str(self.version)
        ray.get(
            [e.finish_weight_update.remote(version) for e in self._engines], timeout=self._timeout
        )


def trainer_init_info(
    backend: str, *, address: str, port: int, rank: int, workers: int
) -> TrainerInitInfo:
    """What a learner rank opens its end with. The transfer group holds the sender and all workers."""
    if backend == "gloo":
        return GlooTrainerInitInfo(address, port, workers + 1, rank=rank)
    if backend == "nccl":
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        return NCCLTrainerInitInfo(address, port, workers + 1, packed=True, rank=rank)
    from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

    return IPCTrainerInitInfo(rank=rank)


# The CPU backend.


class _Group:
    """A gloo process group apart from the default one; rank 0 broadcasts."""

    def __init__(self, address: str, port: int, rank: int, size: int):
        timeout = timedelta(minutes=5)
        self._store = dist.TCPStore(
            address, port, size, is_master=rank == 0, timeout=timeout, wait_for_workers=False
        )
        self._group = dist.ProcessGroupGloo(
            dist.PrefixStore("dps_ray_weights", self._store), rank, size, timeout
        )

    def broadcast(self, tensor: torch.Tensor) -> None:
        options = dist.BroadcastOptions()
        options.rootRank = 0
        options.rootTensor = 0
        self._group.broadcast([tensor], options).wait()  # type: ignore[attr-defined]  # missing in the stubs


def _buckets(metadata: list[ParamMeta]) -> Iterator[list[ParamMeta]]:
    """Runs of parameters of one dtype, of about BUCKET_BYTES; both ends cut the same."""
    bucket: list[ParamMeta] = []
    size = 0
    for meta in metadata:
        if bucket and (meta.dtype != bucket[0].dtype or size >= BUCKET_BYTES):
            yield bucket
            bucket, size = [], 0
        bucket.append(meta)
        size += torch.Size(meta.shape).numel() * meta.dtype.itemsize
    if bucket:
        yield bucket


@dataclass
class GlooInitInfo(WeightTransferInitInfo):
    master_address: str
    master_port: int
    rank_offset: int
    world_size: int


@dataclass
class GlooUpdateInfo(WeightTransferUpdateInfo):
    metadata: list[ParamMeta]


class GlooWorkerEngine(WeightTransferEngine[GlooInitInfo, GlooUpdateInfo]):
    """The engine's end on a CPU."""

    init_info_cls = GlooInitInfo
    update_info_cls = GlooUpdateInfo

    def init_transfer_engine(self, init_info: GlooInitInfo) -> None:
        rank = init_info.rank_offset + self.parallel_config.rank
        self._group = _Group(
            init_info.master_address, init_info.master_port, rank, init_info.world_size
        )

    def start_weight_update(self) -> None:
        # Linear layers are repacked for the CPU's kernels after loading; plain parameters cannot be
        # written over those, so the layers are first put back into their loadable form.
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        # The base class would synchronize an accelerator, and there is none.
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: GlooUpdateInfo) -> None:
        self.model.load_weights(self._stream(update_info.metadata))

    def _stream(self, metadata: list[ParamMeta]) -> Iterator[tuple[str, torch.Tensor]]:
        for bucket in _buckets(metadata):
            sizes = [torch.Size(meta.shape).numel() for meta in bucket]
            flat = torch.empty(sum(sizes), dtype=bucket[0].dtype)
            self._group.broadcast(flat)
            for meta, part in zip(bucket, flat.split(sizes), strict=True):
                yield meta.name, part.view(meta.shape)

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        if getattr(self.model_config.hf_config, "tie_word_embeddings", False):
            self._retie_head()

    def _retie_head(self) -> None:
        """A tied head is not among the weights that arrive, so its packed copy is stale: tie it to
        the new embedding and have it packed again."""
        head = getattr(self.model, "lm_head", None)
        if head is None:
            return
        head.weight = self.model.model.embed_tokens.weight
        if hasattr(head, "_already_called_process_weights_after_loading"):
            del head._already_called_process_weights_after_loading
        head.quant_method.process_weights_after_loading(head)

    def shutdown(self) -> None:
        del self._group


@dataclass
class GlooTrainerInitInfo(TrainerInitInfo):
    backend: ClassVar[str] = "gloo"

    master_address: str
    master_port: int
    world_size: int


class GlooTrainerEngine(TrainerWeightTransferEngine[GlooTrainerInitInfo]):
    """The learner's end on a CPU. Every rank iterates the weights, rank 0 sends them."""

    init_info_cls = GlooTrainerInitInfo
    source: WeightSource

    @classmethod
    def trainer_init(
        cls, init_info: GlooTrainerInitInfo, *, client: Any, source: WeightSource | None = None
    ) -> "GlooTrainerEngine":
        engine = cls(client=client, source=source, is_sender=init_info.is_sender)
        if engine.is_sender:
            where = init_info.master_address, init_info.master_port
            worker = asdict(GlooInitInfo(*where, rank_offset=1, world_size=init_info.world_size))
            with ThreadPoolExecutor(1) as pool:  # both ends must be opening at the same time
                opening = pool.submit(client.init_weight_transfer_engine, worker)
                engine._group = _Group(*where, rank=0, size=init_info.world_size)
                opening.result()
        return engine

    def send_weights(self) -> None:
        if not self.is_sender:
            for _ in self.source:
                pass
            return
        metadata = self.source.metadata()
        self.client.start_weight_update()
        with ThreadPoolExecutor(1) as pool:
            receiving = pool.submit(self.client.update_weights, {"metadata": metadata})
            weights = iter(self.source)
            for bucket in _buckets(metadata):
                parts = [next(weights)[1].reshape(-1) for _ in bucket]
                self._group.broadcast(torch.cat(parts))
            next(weights, None)  # lets the last parameter be released under ZeRO-3
            receiving.result()
        self.client.finish_weight_update()


if "gloo" not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine("gloo", GlooWorkerEngine)
    WeightTransferTrainerFactory.register_engine("gloo", GlooTrainerEngine)
