"""A rollout engine that is a vLLM server, started apart from the run: an actor that forwards every call to it by HTTP.

    Rollouts ── the methods of RolloutEngine ──> ServedEngine ── HTTP ──> vLLM's server
    LearnerRank ── EngineClient ─────────────────────┘                        ║
         ╚═══════════════════════ weights, by gloo or nccl ═══════════════════╝

To the driver it is an engine like others: a call that fails loses the actor, and another actor takes its place, which waits
until the server answers. The server itself is started again by whoever started it.

Weights: vLLM keeps a name for them (`weight_version`), and each response says the names of those that sampled it. Ours is
`DRIVER.e0007.00000057`, so it differs from the name that another run gives. Since its start a server says `default`, so a
server that was restarted has no weights that a run wants, and gets them before it is used.
"""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

import ray

from actors.process import log_to
from actors.requests import Request, Sampling
from actors.server import Server
from actors.server_setup import ServerSetup
from actors.token_requests import body_of, group_of, responses_of
from dps_ray.errors import EngineError, StaleError, TransferError
from dps_ray.failpoints import failpoint
from dps_ray.groups import Group
from dps_ray.weights import WeightsId

_GENERATE = "/inference/v1/generate"
# The weight version of a server during an update. It stays if the update is interrupted, when the server has parts of
# two sets of weights.
_UPDATING = "dps_ray.updating"
# Of the time that the driver waits for an engine to start, so that the error of this actor comes first.
_EARLIER = 0.9


# One call at a time, as of `RolloutEngine`; but requests may be added meanwhile, and a transfer be left.
@ray.remote(concurrency_groups={"intake": 1})
class ServedEngine:
    """The engine behind one address. It has no weights that the driver wants until it is given some."""

    def __init__(self, setup: ServerSetup, index: int, incarnation: int):
        log_to(setup.logs, f"rollout-{index}")
        failpoint("engine.start", engine=index)
        from transformers import AutoTokenizer

        self._index = index
        self._setup = setup
        self._server = Server(setup.addresses[index], setup.key)
        self._name = f"the server {self._server.address}"
        self._epoch = 0  # the latest epoch that weights came from
        self._incoming: WeightsId | None = None  # the weights of an update that has begun
        self._transferring: Future[Any] | None = (
            None  # the call of a transfer that is not answered yet
        )
        self._call = _Call(0, self._server)
        self._tokenizer = AutoTokenizer.from_pretrained(setup.model)
        served = self._server.served_within(_EARLIER * setup.wait)
        served.check(self._server.address, setup.served)

    def weights(self) -> WeightsId | None:
        """Return the weights that the server says it serves; None when this driver gave it none since its start, or only
        a part."""
        failpoint("engine.weights", engine=self._index)
        return self._setup.weights_named(self._server.weight_version())

    def probe(self) -> None:
        """Generate a single token."""
        sampling = {"max_tokens": 1, "detokenize": False}
        self._server.post(_GENERATE, {"token_ids": [0], "sampling_params": sampling})

    @ray.method(num_returns="streaming")
    def generate(
        self, requests: list[Request], sampling: Sampling, weights: WeightsId, call: int
    ) -> Iterator[list[Group]]:
        """Yield groups as they are done, one or more at a time, for these requests and those of `add_requests`.

        Args:
            call: a number that no other call to this actor has.

        Raises:
            StaleError: the server has other weights, or got others meanwhile.
            EngineError: it does not answer, or failed at a request.
        """
        if self.weights() != weights:
            raise StaleError(
                f"{self._name} was to generate with weights {weights} and serves "
                f"{self._server.weight_version()}"
            )
        failpoint("engine.generate.before", seed=sampling.seed, engine=self._index)
        self._call = in_flight = _Call(call, self._server, sampling)
        in_flight.add(requests)
        try:
            for answers in in_flight.answers():
                yield [self._group(request, one, sampling, weights) for request, one in answers]
        finally:
            in_flight.cancel()
        failpoint("engine.generate.after", seed=sampling.seed, engine=self._index)

    @ray.method(concurrency_group="intake")
    def add_requests(self, requests: list[Request], call: int) -> None:
        """Add these requests to this call to `generate`.

        If that call has ended nothing happens; the caller asks again for what the call did not answer.
        """
        if self._call.number == call:
            self._call.add(requests)

    def _group(
        self, request: Request, answer: Any, sampling: Sampling, weights: WeightsId
    ) -> Group:
        expected, version = responses_of(request, sampling), self._setup.name_of(weights)
        try:
            return group_of(answer, request, expected, weights, version, self._texts)
        except (EngineError, StaleError) as error:
            raise type(error)(f"{self._name}: {error}") from error

    def _texts(self, responses: Sequence[Sequence[int]]) -> list[str]:
        texts: list[str] = self._tokenizer.batch_decode(responses, skip_special_tokens=True)
        return texts

    def init_weight_transfer_engine(self, request: Any, epoch: int) -> None:
        """Leave the current transfer group, and join another.

        Raises:
            StaleError: the engine has had weights of a later epoch.
        """
        self._refuse_older_than(epoch)
        failpoint("engine.join", engine=self._index)
        self._end_broken_update()
        self._server.post("/shutdown_weight_transfer_engine")
        self._transfer("/init_weight_transfer_engine", request)

    def start_weight_update(self, weights: WeightsId) -> None:
        """Begin an update to these weights. The server generates nothing until `finish_weight_update`.

        Raises:
            StaleError: the engine has had weights of a later epoch.
        """
        self._refuse_older_than(weights.epoch)
        # Ends what a lost actor may have left in flight, and empties the caches.
        self._server.post("/pause?mode=abort")
        self._end_broken_update()
        self._server.post("/update_weight_version", {"new_version": _UPDATING})
        self._incoming = weights
        self._server.post("/start_weight_update")

    def update_weights(self, request: Any) -> None:
        """Receive weights."""
        failpoint("engine.update", weights=str(self._incoming), engine=self._index)
        self._transfer("/update_weights", request)

    def finish_weight_update(self, weights: WeightsId) -> None:
        """Serve these weights from now on.

        Raises:
            StaleError: the update that has begun is to other weights.
        """
        if weights != self._incoming:
            raise StaleError(
                f"{self._name} was to finish an update to weights {weights} and is in one to {self._incoming}"
            )
        self._server.post("/finish_weight_update")
        # The cached prefixes were computed with the old weights.
        if not self._server.post("/reset_prefix_cache")["success"]:
            raise EngineError(f"{self._name} did not empty its prefix cache")
        self._server.post("/resume")
        # Last: with this name it is used.
        name = self._setup.name_of(weights)
        self._server.post("/update_weight_version", {"new_version": name})
        self._incoming = None

    @ray.method(concurrency_group="intake")
    def leave_transfer(self) -> None:
        """Stop waiting for a transfer that another engine's death has stopped. The server itself goes on until the
        learner closes the connections or the time for the transfer is over."""
        if (transferring := self._transferring) is not None:
            transferring.cancel()

    def _transfer(self, path: str, request: Any) -> None:
        """Make a call that lasts until all members of the transfer take part, and that can be left."""
        timeout = self._setup.transfer_timeout
        self._transferring = self._server.submit(
            self._server.request("POST", path, request, timeout)
        )
        try:
            self._transferring.result()
        except CancelledError:
            raise TransferError(f"{self._name} left a transfer that was given up") from None
        finally:
            self._transferring = None

    def _end_broken_update(self) -> None:
        """Finish an update that was interrupted, by which the server has some old and some new weights.

        vLLM begins another update only with complete layers. The server is not used until all weights have arrived.
        """
        if self._server.weight_version() != _UPDATING:
            return
        # vLLM refuses if it is still in the update; if not, this leaves half-loaded layers as they are.
        with suppress(EngineError):
            self._server.post("/start_weight_update")
        self._server.post("/finish_weight_update")
        self._server.post("/update_weight_version", {"new_version": "dps_ray.broken"})

    def _refuse_older_than(self, epoch: int) -> None:
        """Refuse a learner of an earlier epoch, which may have been frozen and woken up."""
        if epoch < self._epoch:
            raise StaleError(
                f"{self._name} has had weights of epoch {self._epoch} and takes none of {epoch}"
            )
        self._epoch = epoch


class _Call:
    """The requests of one call to `generate` that a server has not answered yet."""

    def __init__(self, number: int, server: Server, sampling: Sampling | None = None) -> None:
        self.number = number
        self._server = server
        self._sampling = sampling
        self._lock = threading.Lock()
        self._closed = sampling is None
        self._waiting = 0
        self._futures: list[Future[None]] = []
        self._outcomes: SimpleQueue[tuple[Request, Any]] = SimpleQueue()

    def add(self, requests: Sequence[Request]) -> None:
        """Ask the server, which answers in any order. Once all are answered there is no effect."""
        with self._lock:
            if not self._closed:
                self._waiting += len(requests)
                self._futures += [self._server.submit(self._ask(request)) for request in requests]

    def answers(self) -> Iterator[list[tuple[Request, Any]]]:
        """Yield what the server answered, as it comes, until it has answered all.

        Raises:
            EngineError: it failed at a request.
        """
        while True:
            with self._lock:
                if self._waiting == 0:
                    self._closed = True
                    return
            found = [self._outcomes.get()]
            with suppress(Empty):
                while True:
                    found.append(self._outcomes.get_nowait())
            with self._lock:
                self._waiting -= len(found)
            for _, outcome in found:
                if isinstance(outcome, BaseException):
                    raise outcome
            yield found

    def cancel(self) -> None:
        """Give up what is not answered; the server aborts it."""
        with self._lock:
            self._closed = True
        for future in self._futures:
            future.cancel()

    async def _ask(self, request: Request) -> None:
        assert self._sampling is not None, "requests come with their sampling"
        outcome: Any
        try:
            outcome = await self._server.request(
                "POST", _GENERATE, body_of(request, self._sampling)
            )
        except Exception as error:
            outcome = error
        self._outcomes.put((request, outcome))
