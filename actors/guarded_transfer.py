"""A weight transfer that does not block when an engine dies, with any backend.

        rank 0's own thread                            a thread for vLLM's trainer engine
    send ── starts ─────────────────────────────────> open the group, send the weights
      waits for the first of:                              │ takes one weight after another
        the thread has ended                               ▼
        a call to a rollout engine failed              SharedWeights
        no time is left                                    ▲
      after a failure: gives the group up,                 │
        takes the weights that are left ───────────────────┘

Over NCCL the death of an engine leaves rank 0 in a stream synchronization, or in the opening of the group. Both block
for ever and cannot be interrupted, so they run in a thread that can be abandoned. TRL moves its broadcast to a thread
for the same reason (its issue 6796).

Under ZeRO-3 every weight is a collective of the learner's ranks. The other ranks take part until rank 0 has taken all
weights, so rank 0 takes them after a failure too.
"""

import threading
import time
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import Any, NoReturn

import torch
from vllm.distributed.weight_transfer.base import ParamMeta, TrainerInitInfo, WeightSource
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

from actors.engine_client import EngineClient
from dps_ray.errors import StaleError, TransferError
from dps_ray.weights import WeightsId

_GRACE = 1.0  # seconds for the engine's thread to end by itself
_PATIENCE = 5.0  # seconds for the group to close, and for Ray to say which engine died


class GuardedTransfer:
    """One learner rank's end of the transfer to a list of engines. All ranks send alike.

    The first send opens the group. After a failed send a new GuardedTransfer is needed.
    """

    def __init__(self, info: TrainerInitInfo, client: EngineClient, source: WeightSource) -> None:
        self._info = info
        self._client = client
        self._weights = SharedWeights(source)
        self._engine: Any = None  # vLLM's, once the group is open
        # None: the weights have arrived. After a failure both the client and the engine's thread put an error.
        self._outcomes: SimpleQueue[BaseException | None] = SimpleQueue()
        client.on_failure = self._outcomes.put

    def send(self, weights: WeightsId) -> None:
        """Send the weights, which have this identity, to every engine. Only rank 0 raises.

        Raises:
            TransferError: the weights did not arrive at all engines.
            StaleError: an engine has seen weights of a later epoch.
            Exception: one that the source of the weights raised; then the learner is the cause, not an engine.
        """
        self._client.weights = weights
        self._client.begin()
        self._weights.begin()
        if self._info.is_sender:
            self._send_on_a_thread()
        else:
            self._open_and_send()
        # vLLM's engine may stop at the last weight, which then would stay gathered on this rank alone.
        self._weights.drain()

    def close(self) -> None:
        """Leave the group."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.shutdown()

    def _send_on_a_thread(self) -> None:
        thread = threading.Thread(target=self._run, name="weight transfer", daemon=True)
        thread.start()
        error = self._outcome()
        if error is not None:
            self._give_up(thread)
            self._raise(error)

    def _run(self) -> None:
        """Run in the thread of vLLM's engine."""
        try:
            self._open_and_send()
        except BaseException as error:
            self._outcomes.put(error)
        else:
            self._outcomes.put(None)

    def _open_and_send(self) -> None:
        engine = self._engine
        if engine is None:
            engine = WeightTransferTrainerFactory.trainer_init(
                self._info, client=self._client, source=self._weights
            )
            if self._weights.closed:  # given up while the group was opening
                engine.shutdown()
                return
            self._engine = engine
        engine.send_weights()

    def _outcome(self) -> BaseException | None:
        try:
            return self._outcomes.get(timeout=self._client.seconds_left)
        except Empty:
            return TimeoutError(f"they did not arrive within {self._client.timeout:.0f} s")

    def _give_up(self, thread: threading.Thread) -> None:
        """Close the group, then take the remaining weights.

        The group is closed first, since a broadcast that hangs on a GPU may block other work there.
        """
        self._weights.close()
        # Then it has ended or is blocked, so it does not use the group while that is closed.
        thread.join(_GRACE)
        closing = threading.Thread(target=self.close, name="closing the transfer", daemon=True)
        closing.start()
        closing.join(_PATIENCE)
        self._weights.drain()

    def _raise(self, error: BaseException) -> NoReturn:
        if self._weights.error is not None:
            raise self._weights.error
        until = time.monotonic() + _PATIENCE
        # A connection broke or the time is up. The client may report soon which engine was lost.
        while not isinstance(error, StaleError | TransferError):
            try:
                error = self._outcomes.get(timeout=max(until - time.monotonic(), 0.0)) or error
            except Empty:
                raise self._client.failed(error) from error
        raise error


class SharedWeights(WeightSource):
    """One pass over the weights for each send, which the engine's thread begins and another thread may finish.

    Each weight is taken under a lock, since taking it is a collective of the ranks.
    """

    def __init__(self, source: WeightSource) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._left: Iterator[tuple[str, torch.Tensor]] = iter(())
        self.closed = False
        self.error: Exception | None = None  # raised by the source itself

    def begin(self) -> None:
        self._left = iter(self._source)

    def metadata(self) -> list[ParamMeta]:
        metadata: list[ParamMeta] = self._source.metadata()
        return metadata

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Iterate over the rest of the pass. Raises TransferError once closed."""
        while (item := self._take()) is not None:
            yield item

    def close(self) -> None:
        """Let only `drain` take weights from now on."""
        self.closed = True

    def drain(self) -> None:
        """Take all remaining weights, after waiting for one that is being taken."""
        with self._lock:
            for _ in self._left:
                pass

    def _take(self) -> tuple[str, torch.Tensor] | None:
        with self._lock:
            if self.closed:
                raise TransferError("this transfer was given up")
            try:
                return next(self._left, None)
            except Exception as error:
                self.error = error
                raise
