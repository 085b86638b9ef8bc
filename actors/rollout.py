"""Rollout engines as the driver uses them: it deals prompts to those that serve the current weights, and
collects groups. An engine may die or fall silent at any time.

    generate(requests) ──> engines that are fresh ──> groups, each as soon as it is done
                  ▲                │
                  └── taken back ──┘ died or silent: replaced; it serves nothing before the learner has
                                     sent it the current weights
"""

import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from actors.calls import Lost, answer, outcomes, wait
from actors.engine_setup import EngineSetup, engine_environment
from actors.health import Deadlines, Health, Quarantine, State
from actors.learner import Learner
from actors.managed_actor import ManagedActor, RestartTracker
from actors.requests import Request, Sampling
from actors.rollout_engine import RolloutEngine
from actors.work_queue import WorkQueue
from dps_ray.config import Config
from dps_ray.config.evaluation import EvaluationConfig
from dps_ray.errors import TransferError
from dps_ray.groups import Group
from dps_ray.weights import START

# Seconds between looks at deadlines.
_LOOK_UP = 0.5


class _Engine:
    """An engine as the driver sees it."""

    def __init__(self, managed: ManagedActor, health: Health) -> None:
        self.managed = managed
        self.health = health
        # What it is to answer: to its start, to work, or to a probe. An answer to any other call, as of an
        # earlier incarnation, is not looked at.
        self.call: Any = managed.actor.weights.remote()
        self.number = 0  # of its call to `generate`
        self.began = 0.0  # that call, in Unix seconds


class Rollouts:
    """All rollout engines. Every method may replace engines that were lost.

    Each raises EngineError when one was lost too often in a row, and LearnerLostError when the learner
    was, while it sent weights.

    Args:
        model: Hugging Face folder of the start policy.
        transfer: how weights come from the learner, "gloo", "nccl" or "ipc".
        quarantine: told of prompts whose engine failed. Whoever scores their groups tells it of success.
        place: of an engine's index, the options that say where it runs, and with what.
    """

    def __init__(
        self,
        config: Config | EvaluationConfig,
        model: str,
        transfer: str,
        restarts: RestartTracker,
        quarantine: Quarantine,
        place: Callable[[int], dict[str, Any]],
    ):
        self._restarts = restarts
        self._quarantine = quarantine
        self._probe_timeout = config.timeouts.probe
        self._learner: Learner | None = None
        self._weights = START  # the only ones that are served
        self._queue = WorkQueue((), quarantine)  # of the call to `generate` in progress
        self._sampling: Sampling | None = None
        self._on_group: Callable[[Group], None] = lambda group: None
        self._worked: dict[int, list[tuple[float, float]]] = {}  # by index of the engine
        self._most_waiting = 0
        self._failed_transfers = 0  # in a row, in which no engine was lost
        setup = EngineSetup.of(config, model, transfer)
        self._slots = setup.slots
        deadlines = Deadlines(
            start=config.resources.wait,
            # In an evaluation there is no learner to send weights.
            update=config.timeouts.publish if isinstance(config, Config) else math.inf,
            work=config.timeouts.generate,
            idle=config.timeouts.idle,
            probe=config.timeouts.probe,
        )
        environment = engine_environment(config)

        def start(index: int) -> Callable[[int], Any]:
            options = RolloutEngine.options(  # type: ignore[attr-defined]
                **place(index), runtime_env=environment
            )
            return lambda incarnation: options.remote(setup, index, incarnation)

        self.engines = []
        for index in range(config.resources.rollout.engines):
            managed = ManagedActor("rollout_engine", index, start(index), restarts)
            health = Health(managed.name, deadlines, START, time.monotonic())
            self.engines.append(_Engine(managed, health))

    def wait_until_ready(self) -> None:
        """Until every engine has started, or started again."""
        while self._in(State.STARTING, State.SUSPECT):
            self._look()

    def sleep(self) -> None:
        """Have every engine that is up leave its card to the learner, until it is needed again."""
        engines = self._in(State.FRESH, State.STALE)
        calls = [engine.managed.actor.sleep.remote() for engine in engines]
        for engine, found in zip(engines, outcomes(calls, self._probe_timeout), strict=True):
            if isinstance(found, Lost):
                self._replace(engine, found.why)

    def publish(self, learner: Learner) -> None:
        """Serve this learner's weights, and no others, from now on.

        Those engines that are up are given them now, and at least one is; the others when they are.
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
    ) -> list[Group | None]:
        """A group for each request, in their order; None for a prompt that is set aside.

        An engine is given what it can decode at the same time and half as much again; the rest goes to whichever
        has least left to do. The work of an engine that fails is dealt again, in smaller pieces each time,
        so that a prompt that breaks engines is alone when it is set aside.

        Args:
            on_group: called with each group as soon as it is done.
        """
        self._sampling, self._on_group = sampling, on_group
        try:
            self._look(0)
            self._ask_for_weights(self._in(State.FRESH, State.STALE, State.UPDATING))
            self._queue = WorkQueue(
                requests,
                self._quarantine,
                engines=len(self.engines) - len(self._in(State.STARTING)),
                capacity=self._capacity(sampling),
            )
            self._serve()
            return self._queue.groups()
        finally:
            # After an error or a signal an engine may go on with prompts of this call; its answers are dropped.
            self._queue = WorkQueue((), self._quarantine)
            self._on_group = lambda group: None

    def worked(self) -> dict[int, list[tuple[float, float]]]:
        """From when to when each engine generated since this was last asked, by index, in Unix seconds."""
        worked, self._worked = self._worked, {}
        return worked

    def metrics(self) -> dict[str, float]:
        """`queue/rollout`: the most prompts that waited for an engine, since this was last asked."""
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

    def _serve(self) -> None:
        """Have all prompts of the queue answered, and all engines done."""
        while self._queue.waiting or self._in(State.BUSY):
            if self._queue.waiting:
                self._refresh()
                self._deal()
                self._most_waiting = max(self._most_waiting, self._queue.waiting)
            self._look()

    def _deal(self) -> None:
        """Give prompts to engines that are idle, and to those that will be soon."""
        fresh = [engine.managed.index for engine in self._in(State.FRESH)]
        for index, requests, more in self._queue.deal(fresh):
            engine = self.engines[index]
            if more:
                engine.managed.actor.add_requests.remote(requests, engine.number)
            else:
                self._assign(engine, requests)

    def _capacity(self, sampling: Sampling) -> int:
        """Prompts that an engine has at a time. One that is alone has all: vLLM itself has a queue."""
        if len(self.engines) == 1:
            return sys.maxsize
        return math.ceil(1.5 * self._slots / sampling.responses)

    def _assign(self, engine: _Engine, requests: list[Request]) -> None:
        engine.health.assigned(time.monotonic())
        engine.number += 1
        engine.began = time.time()
        engine.call = engine.managed.actor.generate.remote(
            requests, self._sampling, self._weights, engine.number
        )

    def _look(self, seconds: float = _LOOK_UP) -> None:
        """Take in what engines have answered, for which it waits so long, and act on silence."""
        by_call = {engine.call: engine for engine in self.engines if engine.call is not None}
        calls = list(by_call)
        wait(calls, 1, seconds)
        done, _ = wait(calls, len(calls), 0)
        for call in done:
            self._take(by_call[call])
        for engine in self.engines:
            if engine.health.check(time.monotonic()):
                self._suspect(engine)

    def _take(self, engine: _Engine) -> None:
        """Take in what it answered."""
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

    def _got(self, engine: _Engine, groups: Sequence[Group]) -> None:
        for group in groups:
            if self._queue.answered(engine.managed.index, group):
                self._on_group(group)

    def _finished(self, engine: _Engine) -> None:
        """What was added too late for it to take is dealt again."""
        engine.call = None
        self._worked.setdefault(engine.managed.index, []).append((engine.began, time.time()))
        engine.health.finished(time.monotonic())
        engine.managed.record_success()
        self._queue.put_back(engine.managed.index)

    def _suspect(self, engine: _Engine) -> None:
        """It was silent for too long, and is now either suspected or given up."""
        if engine.health.state is State.DEAD:
            self._replace(engine, "did not answer in time")
        else:
            self._queue.failed(engine.managed.index)
            engine.call = engine.managed.actor.probe.remote()

    def _replace(self, engine: _Engine, why: str) -> None:
        engine.health.died(time.monotonic())
        self._queue.failed(engine.managed.index)
        engine.call = None
        engine.managed.replace(why)
        engine.health.restarted(time.monotonic())
        engine.call = engine.managed.actor.weights.remote()

    def _refresh(self) -> None:
        """Give the current weights to the engines that are up and do not have them.

        While the learner trains it has neither the old weights nor the new. Then such an engine has to wait
        for the next `publish`; if no other serves, all wait for the learner, and go on with the new.
        """
        stale = self._in(State.STALE)
        if not stale:
            return
        assert self._learner is not None, "an engine is stale and there was never another's weights"
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
            self._learner.send([engine.managed.actor for engine in stale])
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

    def _after_failed_transfer(self, engines: Sequence[_Engine], error: TransferError) -> None:
        """Replace the engines that were lost in it; the others are given all the weights once more. If none was
        lost, and the same happens again, something else is wrong with them, and all are replaced."""
        for engine in engines:
            engine.managed.actor.leave_transfer.remote()  # if that fails, so does the next call
        self._ask_for_weights(engines)
        if any(engine.health.state is State.STARTING for engine in engines):
            return
        self._failed_transfers += 1
        if self._failed_transfers > 1:
            self._failed_transfers = 0
            for engine in engines:
                self._replace(engine, f"took part in a transfer that failed: {error}")

    def _ask_for_weights(self, engines: Sequence[_Engine]) -> None:
        """Believe of idle engines what they say themselves that they serve, and replace those that are gone."""
        calls = [engine.managed.actor.weights.remote() for engine in engines]
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

    def _in(self, *states: State) -> list[_Engine]:
        return [engine for engine in self.engines if engine.health.state in states]


def _answer(call: Any) -> Any:
    """What an engine answered. One that raised anything is lost: vLLM cannot be relied on after that."""
    try:
        return answer(call)
    except Exception as error:
        return Lost(f"failed: {type(error).__name__}: {error}")
