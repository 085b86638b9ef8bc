"""The rollout engines as the driver uses them. An engine may die or fall silent at any time.

    generate(requests) ──> WorkQueue ──> engines that are fresh ──> groups, each as soon as it is done
                            ▲     ▲             │                      │
      further requests ─────┘     └── failed ───┤                      └──> on_group: scored, and perhaps further requests
                                                └ died or silent: the engine is replaced, and serves nothing
                                                  before the learner has sent it the current weights

`Rollouts` watches the health of the engines and calls them; `WorkQueue` decides which engine gets which prompt.
"""

import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from actors.calls import Lost, answer, outcomes, wait
from actors.engine_handle import EngineHandle, engine_starts
from actors.engine_setup import EngineSetup
from actors.health import Deadlines, Health, Quarantine, State
from actors.learner import Learner
from actors.managed_actor import ManagedActor, RestartTracker
from actors.requests import FurtherRequests, NoFurtherRequests, Request, Sampling
from actors.server_setup import ServerSetup
from actors.work_queue import WorkQueue
from dps_ray.config import Config
from dps_ray.config.evaluation import EvaluationConfig
from dps_ray.errors import TransferError
from dps_ray.groups import Group
from dps_ray.weights import START

# Seconds between looks at deadlines.
_LOOK_UP = 0.5


class Rollouts:
    """All rollout engines. Every method may replace engines that were lost.

    Each method raises EngineError when an engine was lost too often in a row, and LearnerLostError when the
    learner was lost while it sent weights.

    Args:
        model: Hugging Face folder of the start policy.
        transfer: how weights come from the learner, "gloo", "nccl" or "ipc".
        quarantine: is told of prompts whose engine failed. The caller that scores their groups tells it of success.
        place: returns, for the index of an engine, the Ray options that say where it runs, and with what.
        servers: what generates instead of engines; None: engines do.
    """

    def __init__(
        self,
        config: Config | EvaluationConfig,
        model: str,
        transfer: str,
        restarts: RestartTracker,
        quarantine: Quarantine,
        place: Callable[[int], dict[str, Any]],
        servers: ServerSetup | None = None,
    ):
        setup = EngineSetup.of(config, model, transfer)
        deadlines = Deadlines(
            start=config.resources.wait,
            # In an evaluation there is no learner to send weights.
            update=config.timeouts.publish if isinstance(config, Config) else math.inf,
            work=config.timeouts.generate,
            idle=config.timeouts.idle,
            probe=config.timeouts.probe,
        )
        self._restarts = restarts
        self._quarantine = quarantine
        self._probe_timeout = config.timeouts.probe
        self._slots = setup.slots if servers is None else servers.served.slots
        self._learner: Learner | None = None
        self._weights = START  # the only ones that are served
        self._queue = WorkQueue((), quarantine)  # of the call to `generate` in progress
        self._on_group: Callable[[Group], None] = lambda group: None
        self._worked: dict[int, list[tuple[float, float]]] = {}  # by index of the engine
        self._most_waiting = 0
        self._failed_transfers = 0  # in a row, in which no engine was lost

        self.engines = []
        for index, start in enumerate(engine_starts(config, setup, servers, place)):
            managed = ManagedActor("rollout_engine", index, start, restarts)
            health = Health(managed.name, deadlines, START, time.monotonic())
            self.engines.append(EngineHandle(managed, health))

    def wait_until_ready(self) -> None:
        """Wait until every engine has started, or started again."""
        while self._in(State.STARTING, State.SUSPECT):
            self._look()

    def sleep(self) -> None:
        """Make every engine that is up leave its card to the learner, until it is needed again."""
        engines = self._in(State.FRESH, State.STALE)
        calls = [engine.actor.sleep.remote() for engine in engines]
        for engine, found in zip(engines, outcomes(calls, self._probe_timeout), strict=True):
            if isinstance(found, Lost):
                self._replace(engine, found.why)

    def publish(self, learner: Learner) -> None:
        """Serve this learner's weights, and no others, from now on.

        Engines that are up receive them now, the others once they are up. At least one engine has them when this
        returns.
        """
        self._learner, self._weights = learner, learner.weights
        for engine in self.engines:
            engine.health.wants(self._weights, time.monotonic())
        self._look(0)
        while self._in(State.SUSPECT):
            self._look()
        self._ask_for_weights(self._in(State.FRESH, State.STALE, State.UPDATING))
        self._refresh()
        while not self._in(State.FRESH):
            self._look()
            self._refresh()

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        on_group: Callable[[Group], None] = lambda group: None,
        further: FurtherRequests | None = None,
    ) -> list[Group | None]:
        """Return a group for each request, in their order; None for a prompt that is set aside. See `WorkQueue`.

        Args:
            on_group: called with each group, or round of a group, as soon as it is done.
            further: asks for further rounds of the same prompts meanwhile.
        """
        self._on_group = on_group
        try:
            self._look(0)
            self._ask_for_weights(self._in(State.FRESH, State.STALE, State.UPDATING))
            self._queue = WorkQueue(
                requests,
                self._quarantine,
                engines=len(self.engines) - len(self._in(State.STARTING)),
                capacity=self._capacity(sampling),
            )
            self._serve(sampling, further or NoFurtherRequests())
            return self._queue.groups()
        finally:
            # After an error or a signal an engine may go on with prompts of this call; its answers are dropped.
            self._queue = WorkQueue((), self._quarantine)
            self._on_group = lambda group: None

    def worked(self) -> dict[int, list[tuple[float, float]]]:
        """Return, by index, the intervals in which each engine generated since the last call, in Unix seconds."""
        worked, self._worked = self._worked, {}
        return worked

    def metrics(self) -> dict[str, float]:
        """Return `queue/rollout`: the most prompts that waited for an engine since the last call."""
        most, self._most_waiting = self._most_waiting, 0
        return {"queue/rollout": float(most)}

    @property
    def slots(self) -> int:
        """Responses that all engines together decode at the same time."""
        return self._slots * len(self.engines)

    def stop(self) -> None:
        """End every engine."""
        for engine in self.engines:
            engine.managed.kill()

    def _serve(self, sampling: Sampling, further: FurtherRequests) -> None:
        """Wait until all prompts of the queue are answered, all engines are idle, and there are no further requests."""
        while True:
            self._queue.add(further.take())
            calls = further.calls()
            if not (self._queue.waiting or calls or self._in(State.BUSY)):
                return
            if self._queue.waiting:
                self._refresh()
                self._deal(sampling)
                self._most_waiting = max(self._most_waiting, self._queue.waiting)
            self._look(others=calls)

    def _deal(self, sampling: Sampling) -> None:
        """Give prompts to engines that are idle, and to those that will be soon."""
        for index, requests, more in self._queue.deal([e.index for e in self._in(State.FRESH)]):
            engine = self.engines[index]
            if more:
                engine.actor.add_requests.remote(requests, engine.number)
            else:
                engine.generate(requests, sampling, self._weights)

    def _capacity(self, sampling: Sampling) -> int:
        """Return the prompts that an engine has at a time: half as many again as it decodes. An engine that is alone
        has all of them, since vLLM itself has a queue."""
        if len(self.engines) == 1:
            return sys.maxsize
        return math.ceil(1.5 * self._slots / sampling.responses)

    def _look(self, seconds: float = _LOOK_UP, others: Sequence[Any] = ()) -> None:
        """Wait so long for an answer of an engine or to another call, process what engines answered, and act on
        silence."""
        by_call = {engine.call: engine for engine in self.engines if engine.call is not None}
        calls = list(by_call)
        wait([*calls, *others], 1, seconds)
        done, _ = wait(calls, len(calls), 0)
        for call in done:
            self._take(by_call[call])
        for engine in self.engines:
            if engine.health.check(time.monotonic()):
                self._suspect(engine)

    def _take(self, engine: EngineHandle) -> None:
        """Process what the engine answered."""
        now, health = time.monotonic(), engine.health
        try:
            found = _answer(next(engine.call) if health.state is State.BUSY else engine.call)
        except StopIteration:
            self._finished(engine)
            return
        if isinstance(found, Lost):
            engine.call = None
            self._replace(engine, found.why)
        elif health.state is State.BUSY:
            health.progressed(now)
            self._got(engine, found)
        elif health.state is State.STARTING:
            engine.call = None
            health.started(found, now)
            self._restarts.back(engine.managed.kind, engine.managed.name)
        else:
            engine.call = None
            health.answered(now)

    def _got(self, engine: EngineHandle, groups: Sequence[Group]) -> None:
        for group in groups:
            if self._queue.answered(engine.index, group):
                self._on_group(group)

    def _finished(self, engine: EngineHandle) -> None:
        """Its call has ended; requests that reached it too late are dealt again."""
        engine.call = None
        self._worked.setdefault(engine.index, []).append((engine.began, time.time()))
        engine.health.finished(time.monotonic())
        engine.managed.record_success()
        self._queue.put_back(engine.index)

    def _suspect(self, engine: EngineHandle) -> None:
        """It was silent for too long: probe it, or replace it if it did not answer a probe or its start."""
        if engine.health.state is State.DEAD:
            self._replace(engine, "did not answer in time")
        else:
            self._queue.failed(engine.index)
            engine.call = engine.actor.probe.remote()

    def _replace(self, engine: EngineHandle, why: str) -> None:
        engine.health.died(time.monotonic())
        self._queue.failed(engine.index)
        engine.call = None
        engine.managed.replace(why)
        engine.health.restarted(time.monotonic())
        engine.call = engine.actor.weights.remote()

    def _refresh(self) -> None:
        """Send the current weights to the engines that are up and do not have them.

        While the learner trains it has neither the old weights nor the new ones. Then such an engine waits for the
        next `publish`. If no other engine serves, this waits for the learner and sends the new weights.
        """
        stale = self._in(State.STALE)
        if not stale:
            return
        assert self._learner is not None, "an engine is stale, and no weights were published"
        if self._learner.training is not None:
            if self._in(State.FRESH, State.BUSY):
                return
            self._learner.training.result()
            self._weights = self._learner.weights
            for engine in self.engines:
                engine.health.wants(self._weights, time.monotonic())
        for engine in stale:
            engine.health.updating(time.monotonic())
        try:
            self._learner.send([engine.actor for engine in stale])
        except TransferError as error:
            self._after_failed_transfer(stale, error)
            return
        self._failed_transfers = 0
        self._ask_for_weights(stale)
        for engine in stale:
            if engine.health.state is State.STALE:
                self._replace(
                    engine, f"was given weights {self._weights} and has {engine.health.weights}"
                )

    def _after_failed_transfer(self, engines: Sequence[EngineHandle], error: TransferError) -> None:
        """Replace the engines that were lost in the transfer; the others will receive all the weights once more.

        If the transfer fails twice in a row without a loss, the cause is unknown, and all of them are replaced.
        """
        for engine in engines:
            engine.actor.leave_transfer.remote()  # if that fails, so does the next call
        self._ask_for_weights(engines)
        if any(engine.health.state is State.STARTING for engine in engines):
            return
        self._failed_transfers += 1
        if self._failed_transfers > 1:
            self._failed_transfers = 0
            for engine in engines:
                self._replace(engine, f"took part in a transfer that failed: {error}")

    def _ask_for_weights(self, engines: Sequence[EngineHandle]) -> None:
        """Ask idle engines which weights they serve, and replace those that are gone."""
        calls = [engine.actor.weights.remote() for engine in engines]
        answers = outcomes(calls, self._probe_timeout, _answer)
        for engine, found in zip(engines, answers, strict=True):
            if isinstance(found, Lost):
                self._replace(engine, found.why)
                continue
            if engine.health.state is not State.UPDATING:
                engine.health.updating(time.monotonic())
            if found is None:
                engine.health.spoiled(time.monotonic())
            else:
                engine.health.refreshed(found, time.monotonic())

    def _in(self, *states: State) -> list[EngineHandle]:
        return [engine for engine in self.engines if engine.health.state in states]


def _answer(call: Any) -> Any:
    """Return what an engine answered, or `Lost` if it raised anything: vLLM is not reliable after that."""
    try:
        return answer(call)
    except Exception as error:
        return Lost(f"failed: {type(error).__name__}: {error}")
