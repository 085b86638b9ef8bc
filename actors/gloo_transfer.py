"""vLLM's weight transfer on a CPU: a gloo broadcast from the learner's rank 0 to every worker of the engines.

It uses a separate process group, so that the default groups of vLLM and DeepSpeed are not affected.
Importing the module registers both ends with vLLM's factories, under the name `gloo`.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.distributed as dist
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    WeightSource,
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import (
    WeightTransferEngineFactory,
    WeightTransferTrainerFactory,
)
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)

from dps_ray.failpoints import failpoint

if TYPE_CHECKING:
    from actors.engine_client import EngineClient

BUCKET_BYTES = 256 * 2**20  # parameters are broadcast in flat buffers of about this size


class _Group:
    """A gloo process group besides the default one; rank 0 broadcasts.

    The constructor waits for the other members, and raises torch.distributed's errors when they do not join or are lost.
    """

    def __init__(self, address: str, port: int, rank: int, size: int, timeout: float):
        limit = timedelta(seconds=timeout)
        self._store: Any = dist.TCPStore(
            address, port, size, is_master=rank == 0, timeout=limit, wait_for_workers=False
        )
        self._group: Any = dist.ProcessGroupGloo(
            dist.PrefixStore("dps_ray_weights", self._store), rank, size, limit
        )

    def broadcast(self, tensor: torch.Tensor, timeout: float) -> None:
        """Broadcast from rank 0.

        Raises:
            RuntimeError: a peer closed the connection, or `timeout` seconds have passed.
        """
        options = dist.BroadcastOptions()
        options.rootRank = 0
        options.rootTensor = 0
        options.timeout = timedelta(seconds=timeout)
        self._group.broadcast([tensor], options).wait()

    def close(self) -> None:
        """Close the connections to the other members."""
        self._group = self._store = None


def _buckets(metadata: list[ParamMeta]) -> Iterator[list[ParamMeta]]:
    """Return runs of parameters of one dtype, of about BUCKET_BYTES each; the same at both ends."""
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
    timeout: float  # seconds


@dataclass
class GlooUpdateInfo(WeightTransferUpdateInfo):
    """The parameters that follow, in plain values, since a server receives this as JSON."""

    names: list[str]
    dtype_names: list[str]  # such as "float32"
    shapes: list[list[int]]

    @classmethod
    def of(cls, metadata: list[ParamMeta]) -> "GlooUpdateInfo":
        return cls(
            [meta.name for meta in metadata],
            [str(meta.dtype).removeprefix("torch.") for meta in metadata],
            [list(meta.shape) for meta in metadata],
        )

    @property
    def metadata(self) -> list[ParamMeta]:
        parameters = zip(self.names, self.dtype_names, self.shapes, strict=True)
        return [ParamMeta(name, getattr(torch, d), tuple(shape)) for name, d, shape in parameters]


class GlooWorkerEngine(WeightTransferEngine[GlooInitInfo, GlooUpdateInfo]):
    """The engine's end on a CPU."""

    init_info_cls = GlooInitInfo
    update_info_cls = GlooUpdateInfo

    _group: _Group | None = None
    _timeout = 0.0

    def init_transfer_engine(self, init_info: GlooInitInfo) -> None:
        self.shutdown()
        self._timeout = init_info.timeout
        self._group = _Group(
            init_info.master_address,
            init_info.master_port,
            init_info.rank_offset + self.parallel_config.rank,
            init_info.world_size,
            init_info.timeout,
        )

    def start_weight_update(self) -> None:
        # Linear layers are repacked for the CPU's kernels after loading. Plain parameters cannot be written over
        # repacked ones, so the layers are first put back into their loadable form.
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        # The base class would synchronize an accelerator, and there is none.
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: GlooUpdateInfo) -> None:
        try:
            self.model.load_weights(self._stream(update_info.metadata))
        except BaseException:
            self.shutdown()  # so that the sender does not wait
            raise

    def _stream(self, metadata: list[ParamMeta]) -> Iterator[tuple[str, torch.Tensor]]:
        assert self._group is not None, "no transfer group was opened"
        for bucket in _buckets(metadata):
            sizes = [torch.Size(meta.shape).numel() for meta in bucket]
            flat = torch.empty(sum(sizes), dtype=bucket[0].dtype)
            self._group.broadcast(flat, self._timeout)
            for meta, part in zip(bucket, flat.split(sizes), strict=True):
                yield meta.name, part.view(meta.shape)

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        if getattr(self.model_config.hf_config, "tie_word_embeddings", False):
            self._retie_head()

    def _retie_head(self) -> None:
        """Tie the output head to the new embedding, and repack it: a tied head is not among the weights that arrive, so
        its packed copy is stale."""
        # In a vision-language model it is a part of the model.
        language_model: Any = getattr(self.model, "language_model", self.model)
        head = getattr(language_model, "lm_head", None)
        if head is None:
            return
        head.weight = language_model.model.embed_tokens.weight
        if hasattr(head, "_already_called_process_weights_after_loading"):
            del head._already_called_process_weights_after_loading
        head.quant_method.process_weights_after_loading(head)

    def shutdown(self) -> None:
        if self._group is not None:
            self._group.close()
            self._group = None


@dataclass
class GlooTrainerInitInfo(TrainerInitInfo):
    backend: ClassVar[str] = "gloo"

    master_address: str
    master_port: int
    world_size: int


class GlooTrainerEngine(TrainerWeightTransferEngine[GlooTrainerInitInfo]):
    """The learner's end on a CPU. Every rank iterates over the weights, rank 0 sends them.

    Like vLLM's own engines it may block while it opens the group or sends; see `guarded_transfer.py`.
    """

    init_info_cls = GlooTrainerInitInfo
    source: WeightSource
    client: "EngineClient"

    _group: _Group | None = None

    @classmethod
    def trainer_init(
        cls, init_info: GlooTrainerInitInfo, *, client: Any, source: WeightSource | None = None
    ) -> "GlooTrainerEngine":
        engine = cls(client=client, source=source, is_sender=init_info.is_sender)
        if engine.is_sender:
            engine._group = engine._open(init_info)
        return engine

    def _open(self, info: GlooTrainerInitInfo) -> _Group:
        """Both ends must be opening at the same time."""
        where = info.master_address, info.master_port
        left = self.client.seconds_left
        theirs = GlooInitInfo(*where, rank_offset=1, world_size=info.world_size, timeout=left)
        with ThreadPoolExecutor(1) as pool:
            joining = pool.submit(self.client.init_weight_transfer_engine, asdict(theirs))
            failpoint("transfer.open", weights=str(self.client.weights))
            group = _Group(*where, rank=0, size=info.world_size, timeout=left)
            joining.result()
        return group

    def send_weights(self) -> None:
        """Send the weights to all engines.

        Raises:
            TransferError: an engine died, failed or was too slow.
            StaleError: an engine has seen weights of a later epoch.
            RuntimeError: a connection broke.
        """
        if not self.is_sender:
            for _ in self.source:
                pass
            return
        metadata = self.source.metadata()
        self.client.start_weight_update()
        pool = ThreadPoolExecutor(1)
        try:
            receiving = pool.submit(self.client.update_weights, asdict(GlooUpdateInfo.of(metadata)))
            self._broadcast(metadata)
            receiving.result()
        finally:
            pool.shutdown(wait=False)  # after an error engines may still wait for weights
        self.client.finish_weight_update()

    def _broadcast(self, metadata: list[ParamMeta]) -> None:
        assert self._group is not None, "only the sender broadcasts"
        weights = iter(self.source)
        for bucket in _buckets(metadata):
            parts = [next(weights)[1].reshape(-1) for _ in bucket]
            failpoint("transfer.broadcast", weights=str(self.client.weights))
            self._group.broadcast(torch.cat(parts), self.client.seconds_left)

    def shutdown(self) -> None:
        """Leave the group; engines that still wait for weights see their connections close."""
        if self._group is not None:
            self._group.close()
            self._group = None


if "gloo" not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine("gloo", GlooWorkerEngine)
    WeightTransferTrainerFactory.register_engine("gloo", GlooTrainerEngine)
