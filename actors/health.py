"""Health of an actor that may die and come back, such as a rollout engine: what it may be asked to do now.

    DEAD ──restarted──> STARTING ──started──> STALE ──updating──> UPDATING ──refreshed──> FRESH
    UPDATING ──spoiled──> STALE
    FRESH ──assigned──> BUSY ──progressed──> BUSY ──finished──> FRESH
    FRESH ──wants (other weights)──> STALE
    UPDATING, FRESH, BUSY ──silent too long──> SUSPECT ──answered──> FRESH
    STARTING, SUSPECT ──silent too long──> DEAD;   any ──died──> DEAD

Wherever that says FRESH it is so with the wanted weights alone, and STALE with others.

Pure: no actor is called and no clock is read here. Whoever holds the actor reports what happened, with
the time, and does what the state says. What a state does not allow cannot be reported: in particular
nothing but weights of the wanted version leads to FRESH, and nothing but FRESH to BUSY.
After NeMo-RL's `generation/fleet_health.py`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from dps_ray.weights import WeightsId


class State(Enum):
    STARTING = "starting"  # its process was asked for and has not answered yet
    STALE = "stale"  # alive; has weights, but not those that are wanted
    UPDATING = "updating"  # being given weights
    FRESH = "fresh"  # has the weights that are wanted, and nothing to do
    BUSY = "busy"  # at work
    SUSPECT = "suspect"  # did not answer in time; its work is taken back, and it is being probed
    DEAD = "dead"  # its process ended, or must be ended


@dataclass(frozen=True)
class Deadlines:
    """For how many seconds an actor may be silent."""

    start: float
    update: float
    work: float
    """Since it was given work, or did some of it."""
    idle: float
    """Then it is probed, though nothing is wanted from it."""
    probe: float


class Health:
    """The state of one actor.

    Args:
        name: for errors.
        wanted: the weights it is to have.
        now: seconds on any clock that only goes forward, as in all other methods.
    """

    def __init__(self, name: str, deadlines: Deadlines, wanted: WeightsId, now: float) -> None:
        self.name = name
        self.state = State.STARTING
        self.weights: WeightsId | None = None
        """The weights it is known to have; None while that is not known."""
        self.deadlines = deadlines
        self._wanted = wanted
        self._since = now

    # --- what the holder reports ------------------------------------------------------------------

    def started(self, weights: WeightsId, now: float) -> None:
        """It answered for the first time, and has these weights."""
        self._only("start", State.STARTING)
        self.weights = weights
        self._enter(self._rested, now)

    def wants(self, weights: WeightsId, now: float) -> None:
        """The learner has new weights, or was set back to old ones: work with others is over."""
        self._wanted = weights
        if self.state in (State.FRESH, State.STALE):
            self._enter(self._rested, now)

    def updating(self, now: float) -> None:
        """It is being given weights. Until that is done it may have some of the old and some of the new."""
        self._only("be updated", State.STALE, State.FRESH)
        self.weights = None
        self._enter(State.UPDATING, now)

    def spoiled(self, now: float) -> None:
        """The weights did not all arrive: it is alive, and has some of the old and some of the new."""
        self._only("be spoiled", State.UPDATING)
        self._enter(self._rested, now)

    def refreshed(self, weights: WeightsId, now: float) -> None:
        """It says that it now has these weights."""
        self._only("be refreshed", State.UPDATING)
        self.weights = weights
        self._enter(self._rested, now)

    def assigned(self, now: float) -> None:
        """It was given work."""
        self._only("be given work", State.FRESH)
        self._enter(State.BUSY, now)

    def progressed(self, now: float) -> None:
        """It did part of its work, and has as long again for the next."""
        self._only("do a part of its work", State.BUSY)
        self._enter(State.BUSY, now)

    def finished(self, now: float) -> None:
        """It did its work."""
        self._only("finish", State.BUSY)
        self._enter(self._rested, now)

    def answered(self, now: float) -> None:
        """It answered a probe: did the smallest piece of real work, not just said that it is well."""
        self._only("answer a probe", State.SUSPECT)
        self._enter(self._rested, now)

    def died(self, now: float) -> None:
        """Its process ended. Reported twice, as by two calls that failed, is reported once."""
        self.weights = None
        self._enter(State.DEAD, now)

    def restarted(self, now: float) -> None:
        """A new process was asked for in its place."""
        self._only("be restarted", State.DEAD)
        self._enter(State.STARTING, now)

    # --- what the holder asks ---------------------------------------------------------------------

    def check(self, now: float) -> bool:
        """Whether it has been silent for too long just now, and is another state for it.

        From STARTING and SUSPECT it is then DEAD: end its process, then restart it. From the others it is
        SUSPECT: take its work back and probe it.
        """
        deadline = self.deadline
        if deadline is None or now < deadline:
            return False
        if self.state in (State.STARTING, State.SUSPECT):
            self.died(now)
        else:
            self._enter(State.SUSPECT, now)
        return True

    @property
    def deadline(self) -> float | None:
        """When `check` will say so; None for the states that may last."""
        silences = {
            State.STARTING: self.deadlines.start,
            State.UPDATING: self.deadlines.update,
            State.FRESH: self.deadlines.idle,
            State.BUSY: self.deadlines.work,
            State.SUSPECT: self.deadlines.probe,
        }
        silence = silences.get(self.state)
        return None if silence is None else self._since + silence

    @property
    def _rested(self) -> State:
        return State.FRESH if self.weights == self._wanted else State.STALE

    def _only(self, do: str, *states: State) -> None:
        if self.state not in states:
            allowed = " or ".join(state.value for state in states)
            raise AssertionError(
                f"{self.name} is {self.state.value} and cannot {do}: only what is {allowed} can"
            )

    def _enter(self, state: State, now: float) -> None:
        self.state, self._since = state, now


class Quarantine:
    """Prompts set aside after so many failures in a row: of the engine that had them, or of their verifier.

    A prompt of a batch cannot be told from the one that broke the engine. So a success forgets its
    failures, and only what fails again and again is set aside.

    Args:
        limit: the failure that sets a prompt aside.
        failures: of a run that is resumed, as `failures` was.
    """

    def __init__(self, limit: int, failures: Mapping[int, int] | None = None) -> None:
        if limit < 1:
            raise ValueError(
                f"a prompt can be set aside after 1 failure or more, not after {limit}"
            )
        self.limit = limit
        self.failures = dict(failures or {})
        """How often in a row each prompt failed, those with none left out."""

    def failed(self, prompt_id: int) -> bool:
        """The prompt failed; whether it is set aside."""
        self.failures[prompt_id] = self.failures.get(prompt_id, 0) + 1
        return prompt_id in self

    def succeeded(self, prompt_ids: Iterable[int]) -> None:
        """These prompts got through. One that is set aside stays so."""
        for prompt_id in prompt_ids:
            if prompt_id not in self:
                self.failures.pop(prompt_id, None)

    def __contains__(self, prompt_id: int) -> bool:
        return self.failures.get(prompt_id, 0) >= self.limit

    @property
    def ids(self) -> NDArray[np.int64]:
        """The prompts set aside, ascending, to exclude from selection."""
        return np.array(sorted(filter(self.__contains__, self.failures)), dtype=np.int64)

    @property
    def count(self) -> int:
        """How many prompts are set aside."""
        return len(self.ids)
