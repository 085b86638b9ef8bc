"""Whatever the trainer engine of a backend does, a transfer ends in time, and all weights are taken once."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    WeightSource,
)
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

from actors.engine_client import EngineClient
from actors.guarded_transfer import GuardedTransfer
from dps_ray.errors import StaleError, TransferError
from dps_ray.weights import WeightsId

NAMES = ["embedding", "layer", "head"]


class Weights(WeightSource):
    """Counts how often each is taken, as a collective of the ranks would."""

    def __init__(self, breaks_at: str | None = None) -> None:
        self.breaks_at = breaks_at
        self.taken: list[str] = []
        self.passes = 0  # that came to their end

    def metadata(self) -> list[ParamMeta]:
        return [ParamMeta(name, torch.float32, (1,)) for name in NAMES]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name in NAMES:
            if name == self.breaks_at:
                raise torch.OutOfMemoryError("CUDA out of memory")
            self.taken.append(name)
            yield name, torch.zeros(1)
        self.passes += 1


@dataclass
class Info(TrainerInitInfo):
    """Of a backend that opens, sends and closes as the test says."""

    backend: ClassVar[str] = "scripted"

    open: Callable[["Scripted"], None] = lambda engine: None
    send: Callable[["Scripted"], None] = lambda engine: list(engine.source)
    close: Callable[["Scripted"], None] = lambda engine: None


class Scripted(TrainerWeightTransferEngine[Info]):
    info: Info

    @classmethod
    def trainer_init(cls, init_info, *, client, source=None):
        engine = cls(client=client, source=source, is_sender=init_info.is_sender)
        engine.info = init_info
        init_info.open(engine)
        return engine

    def send_weights(self) -> None:
        self.info.send(self)

    def shutdown(self) -> None:
        self.info.close(self)


@pytest.fixture(autouse=True)
def scripted_backend(monkeypatch) -> None:
    registry = WeightTransferTrainerFactory._registry
    monkeypatch.setitem(registry, "scripted", lambda: Scripted)


def forever(engine: object = None) -> None:
    threading.Event().wait()


def transfer(
    timeout: float = 100.0, rank: int = 0, breaks_at: str | None = None, **script
) -> tuple[GuardedTransfer, Weights]:
    weights = Weights(breaks_at)
    client = EngineClient([], 1, timeout)
    return GuardedTransfer(Info(rank=rank, **script), client, weights), weights


def lost(client: EngineClient) -> None:
    """A call to an engine fails, as the client does it."""
    client.on_failure(TransferError("receiver 0 died"))


def test_the_group_is_opened_once_and_every_send_takes_all_weights():
    opened = []
    guarded, weights = transfer(open=opened.append)
    guarded.send(WeightsId(1, 1))
    guarded.send(WeightsId(1, 2))
    assert len(opened) == 1
    assert weights.taken == NAMES * 2


@pytest.mark.parametrize("rank", [0, 1])
def test_the_last_weight_is_let_go_on_every_rank(rank):
    def send(engine: Scripted) -> None:
        left = iter(engine.source)
        for _ in NAMES:
            next(left)

    guarded, weights = transfer(rank=rank, send=send)
    guarded.send(WeightsId(1, 1))
    assert weights.passes == 1


@pytest.mark.parametrize("blocked_in", ["open", "send"])
def test_an_engine_lost_while_the_group_blocks_fails_the_transfer_at_once(blocked_in):
    def block(engine: Scripted) -> None:
        if blocked_in == "send":
            next(iter(engine.source))
        lost(engine.client)
        forever()

    guarded, weights = transfer(**{blocked_in: block})
    began = time.monotonic()
    with pytest.raises(TransferError, match="receiver 0 died"):
        guarded.send(WeightsId(1, 1))
    assert time.monotonic() - began < 10.0  # of 80 s until the deadline
    assert weights.taken == NAMES


def test_a_transfer_that_blocks_without_a_word_ends_at_its_deadline(monkeypatch):
    monkeypatch.setattr("actors.guarded_transfer._PATIENCE", 0.1)
    guarded, weights = transfer(timeout=0.5, send=forever)
    with pytest.raises(TransferError, match=r"weights e0001\.00000001 did not reach the engines"):
        guarded.send(WeightsId(1, 1))
    assert weights.taken == NAMES


def test_a_group_that_does_not_close_holds_nothing_up(monkeypatch):
    monkeypatch.setattr("actors.guarded_transfer._PATIENCE", 0.1)

    def send(engine: Scripted) -> None:
        lost(engine.client)
        forever()

    guarded, weights = transfer(send=send, close=forever)
    with pytest.raises(TransferError, match="receiver 0 died"):
        guarded.send(WeightsId(1, 1))
    guarded.close()
    assert weights.taken == NAMES


def test_a_broken_connection_is_told_as_the_engine_that_was_lost():
    def send(engine: Scripted) -> None:
        threading.Timer(0.5, lost, [engine.client]).start()
        raise RuntimeError("connection closed by peer")

    guarded, _ = transfer(send=send)
    with pytest.raises(TransferError, match="receiver 0 died"):
        guarded.send(WeightsId(1, 1))


def test_a_later_epoch_is_told_as_such():
    def send(engine: Scripted) -> None:
        raise StaleError("has had weights of epoch 2")

    guarded, weights = transfer(send=send)
    with pytest.raises(StaleError, match="epoch 2"):
        guarded.send(WeightsId(1, 1))
    assert weights.taken == NAMES


def test_a_thread_that_wakes_up_after_it_was_left_gets_no_more_weights():
    closed, ended = threading.Event(), threading.Event()
    got = []

    def send(engine: Scripted) -> None:
        left = iter(engine.source)
        got.append(next(left)[0])
        lost(engine.client)
        closed.wait()
        try:
            got.append(next(left)[0])
        finally:
            ended.set()

    guarded, weights = transfer(send=send, close=lambda engine: closed.set())
    with pytest.raises(TransferError, match="receiver 0 died"):
        guarded.send(WeightsId(1, 1))
    assert ended.wait(10.0)
    assert got == NAMES[:1]
    assert weights.taken == NAMES


def test_a_group_that_opens_after_it_was_left_is_closed_and_nothing_is_sent():
    left, closed, sent = threading.Event(), threading.Event(), []

    def late(engine: Scripted) -> None:
        lost(engine.client)
        left.wait()

    guarded, _ = transfer(open=late, send=sent.append, close=lambda engine: closed.set())
    with pytest.raises(TransferError, match="receiver 0 died"):
        guarded.send(WeightsId(1, 1))
    left.set()
    assert closed.wait(10.0)
    assert sent == []


def test_weights_that_cannot_be_made_whole_are_the_learners_own_error():
    guarded, _ = transfer(breaks_at="layer")
    with pytest.raises(torch.OutOfMemoryError):
        guarded.send(WeightsId(1, 1))


def test_other_ranks_take_all_weights_in_their_own_thread():
    threads = []

    def send(engine: Scripted) -> None:
        threads.append(threading.current_thread())
        assert [name for name, _ in engine.source] == NAMES

    guarded, _ = transfer(rank=1, send=send)
    guarded.send(WeightsId(1, 1))
    assert threads == [threading.main_thread()]
