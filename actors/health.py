"""The health of an actor that may die and be restarted, such as a rollout engine: what it may be asked to do now.

    DEAD ──restarted──> STARTING ──started──> STALE ──updating──> UPDATING ──refreshed──> FRESH
    UPDATING ──spoiled──> STALE
    FRESH ──assigned──> BUSY ──progressed──> BUSY ──finished──> FRESH
    FRESH ──wants (other weights)──> STALE
    UPDATING, FRESH, BUSY ──silent too long──> SUSPECT ──answered──> FRESH
    STARTING, SUSPECT ──silent too long──> DEAD;   any ──died──> DEAD

Where the picture says FRESH, the actor has the wanted weights; with other weights it becomes STALE.

Pure: no actor is called and no clock is read here. The caller reports what happened to the actor, with the time,
and does what the state says. A report that the state does not allow is an error: in particular only the wanted
weights lead to FRESH, and only FRESH leads to BUSY.
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
    """Seconds for which an actor may be silent."""

    start: float
    update: float
    work: float
    """After it was given work, or did part of it."""
    idle: float
    """While it has nothing to do; then it is probed."""
    probe: float


class Health:
    """The state of one actor.

    Args:
        name: for errors.
        wanted: the weights that it should have.
        now: seconds of a monotonic clock, as in all other methods.
    """

    def __init__(self, name: str, deadlines: Deadlines, wanted: WeightsId, now: float) -> None:
        self.name = name
        self.state = State.STARTING
        self.weights: WeightsId | None = None
        """The weights that it is known to have; None while they are not known."""
        self.deadlines = deadlines
        self._wanted = wanted
        self._since = now

    # --- reports of the caller ------------------------------------------------------------------

    def started(self, weights: WeightsId, now: float) -> None:
        """It answered for the first time, and has these weights."""
        self._only("start", State.STARTING)
        self.weights = weights
        self._enter(self._rested, now)

    def wants(self, weights: WeightsId, now: float) -> None:
        """The learner has new weights, or went back to old ones; others are no longer served."""
        self._wanted = weights
        if self.state in (State.FRESH, State.STALE):
            self._enter(self._rested, now)

    def updating(self, now: float) -> None:
        """It is receiving weights. Until that is done it may have some of the old and some of the new weights."""
        self._only("be updated", State.STALE, State.FRESH)
        self.weights = None
        self._enter(State.UPDATING, now)

    def spoiled(self, now: float) -> None:
        """Not all weights arrived: it is alive, and has some of the old and some of the new weights."""
        self._only("be spoiled", State.UPDATING)
        self._enter(self._rested, now)

    def refreshed(self, weights: WeightsId, now: float) -> None:
        """It reports that it now has these weights."""
        self._only("be refreshed", State.UPDATING)
        self.weights = weights
        self._enter(self._rested, now)

    def assigned(self, now: float) -> None:
        """It was given work."""
        self._only("be given work", State.FRESH)
        self._enter(State.BUSY, now)

    def progressed(self, now: float) -> None:
        """It did part of its work; its deadline starts again."""
        self._only("do a part of its work", State.BUSY)
        self._enter(State.BUSY, now)

    def finished(self, now: float) -> None:
        """It did its work."""
        self._only("finish", State.BUSY)
        self._enter(self._rested, now)

    def answered(self, now: float) -> None:
        """It answered a probe, which is a small piece of real work."""
        self._only("answer a probe", State.SUSPECT)
        self._enter(self._rested, now)

    def died(self, now: float) -> None:
        """Its process ended. Reporting that again, as after two failed calls, changes nothing."""
        self.weights = None
        self._enter(State.DEAD, now)

    def restarted(self, now: float) -> None:
        """A new process is being started in its place."""
        self._only("be restarted", State.DEAD)
        self._enter(State.STARTING, now)

    # --- questions of the caller ---------------------------------------------------------------------

    def check(self, now: float) -> bool:
        """Return whether it has been silent for too long, in which case its state changes.

        From STARTING and SUSPECT it becomes DEAD: end its process, then restart it. From the other states it becomes
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
        """The time at which `check` will return True; None for states without a limit."""
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
    """The prompts that are set aside after `limit` failures in a row of the engine or the verifier that had them.

    When an engine fails, every prompt that it had counts a failure, although one of them may be the cause. A success
    resets the count, so only prompts that fail repeatedly are set aside.

    Args:
        limit: number of failures in a row that sets a prompt aside.
        failures: `failures` of the run that is resumed.
    """

    def __init__(self, limit: int, failures: Mapping[int, int] | None = None) -> None:
        if limit < 1:
            raise ValueError(
                f"a prompt can be set aside after 1 failure or more, not after {limit}"
            )
        self.limit = limit
        self.failures = dict(failures or {})
        """Number of failures in a row, by prompt id; prompts without failures are left out."""

    def failed(self, prompt_id: int) -> bool:
        """Count a failure of the prompt, and return whether it is set aside."""
        self.failures[prompt_id] = self.failures.get(prompt_id, 0) + 1
        return prompt_id in self

    def succeeded(self, prompt_ids: Iterable[int]) -> None:
        """Reset the counts of these prompts. A prompt that is set aside stays set aside."""
        for prompt_id in prompt_ids:
            if prompt_id not in self:
                self.failures.pop(prompt_id, None)

    def __contains__(self, prompt_id: int) -> bool:
        return self.failures.get(prompt_id, 0) >= self.limit

    @property
    def ids(self) -> NDArray[np.int64]:
        """Ids of the prompts set aside, ascending."""
        return np.array(sorted(filter(self.__contains__, self.failures)), dtype=np.int64)

    @property
    def count(self) -> int:
        """Number of prompts set aside."""
        return len(self.ids)
