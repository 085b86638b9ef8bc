"""A reward function in a process of its own that can be killed, so that one response costs no more than its limits.

What a policy under training writes can make a reward function hang, use up memory or crash the interpreter.
It is a guard against such accidents, not against malice: the function has the files and the network.
Linux only.

What a first call imports is not charged to a response. So the first group of each data source is preceded by a trial
call, in a worker that is given up afterwards, and what it imported is kept for all workers to come (`warm_process`).
"""

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from dps_ray.errors import ResponseError, RewardError
from dps_ray.prompts.dataset import Prompt
from dps_ray.rewards.functions import name_of, short, trial_text
from dps_ray.rewards.settings import VerifierSettings
from dps_ray.rewards.warm_process import (
    Responses,
    TrialCall,
    Tried,
    WarmProcess,
    Worker,
    how_it_ended,
)


class TrialError(RewardError):
    """The reward function did not return from a trial call: it hung, needed too much, or ended its process."""


class Sandbox:
    """Scores responses in a worker that is replaced when one was too much for it.

    Make it in a thread that lasts: the processes end with the thread that started them.

    Args:
        reward: as `dps_ray.rewards.functions.load_reward` takes it.
        limits: for one response.
        start: seconds that loading the function may take, and each trial call.
    """

    def __init__(self, reward: str | None, limits: VerifierSettings, start: float) -> None:
        self._reward = reward
        self._limits = limits
        self._start = start
        self._warm: WarmProcess | None = None
        self._child: Worker | None = None
        self._imported: set[str] = set()  # data sources for which `_warm` has imported all
        # Data sources whose first call takes long in each worker, whatever is imported: it loads a model, say.
        self._slow: set[str] = set()
        self._untried: set[str] = set()  # data sources whose trial call did not return in time

    def start(self) -> None:
        """Load the function, unless it is.

        Raises:
            RewardError: it cannot be loaded.
        """
        self._ready()

    def score(
        self, prompt: Prompt, texts: Sequence[str]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scores and accuracies, float64 (k,) each, of the k responses `texts` to one prompt.

        Stops at the first response that fails, as a group is of use only when it is whole.

        Raises:
            ResponseError: the function did not return on a response.
            TrialError: it did not return from a trial call.
            RewardError: it raised, or returned no number, or cannot be loaded.
            NonFiniteRewardError: a score is NaN or infinite.
        """
        prompt = prompt._replace(messages=[], images=[])
        worker = self._worker_for(prompt)
        with suppress(OSError):  # it ended meanwhile, as the first answer tells
            worker.ask(Responses(prompt, list(texts)))
        results = [self._score(worker, prompt, text) for text in texts]
        scores, accuracies = np.array(results, dtype=np.float64).reshape(-1, 2).T
        return scores, accuracies

    def close(self) -> None:
        """End all processes and what they started, if there are any."""
        self._end_child()
        if self._warm is not None:
            self._warm.close()
            self._warm = None

    def _ready(self) -> WarmProcess:
        if self._warm is None or not self._warm.alive:
            self.close()
            self._imported, self._slow = set(), set()
            self._warm = WarmProcess(self._reward, self._limits, self._start)
        return self._warm

    def _worker_for(self, prompt: Prompt) -> Worker:
        """One that has made, or need not make, a first call for this data source."""
        if self._child is not None and self._child.poll() is not None:  # between two groups
            self._end_child()
        warm, source = self._ready(), prompt.data_source
        if source not in self._imported | self._untried:
            self._import_for(warm, prompt)
        worker = self._child = self._child or warm.worker()
        to_try = worker.in_place or source in self._slow
        if to_try and source not in worker.tried | self._untried:
            self._try(worker, prompt)
        return worker

    def _import_for(self, warm: WarmProcess, prompt: Prompt) -> None:
        """Have the warm process import what a first call does."""
        if self._child is None or not self._child.in_place:
            self._end_child()  # it lacks what is imported now
            self._child = warm.worker()
        spent, modules = self._try(self._child, prompt)
        if not self._child.in_place:
            self._end_child()
            imports = warm.bring_in(modules)
            if (
                spent.seconds - imports.seconds > self._limits.seconds / 2
                or spent.cpu_seconds - imports.cpu_seconds > self._limits.cpu_seconds / 2
            ):
                self._slow.add(prompt.data_source)
        self._imported.add(prompt.data_source)

    def _try(self, worker: Worker, prompt: Prompt) -> Tried:
        """
        Raises:
            TrialError: the function does not return.
        """
        try:
            worker.ask(TrialCall(prompt))
            tried: Tried | None = worker.answer(self._start)
        except TimeoutError:
            why = f"gave no answer within {self._start:g} s (resources.wait)"
            self._untried.add(prompt.data_source)  # once is enough, when it takes so long
        except (EOFError, OSError):
            why = how_it_ended(worker.wait(self._limits.seconds), self._limits)
        else:
            if tried is not None:
                worker.tried.add(prompt.data_source)
                return tried
            limit = self._limits.memory_gib
            why = f"takes more than {limit:g} GiB, with what it imports; raise verifier.memory_gib"
        self._end_child()
        raise TrialError(
            f"a trial call of the reward function for data_source {prompt.data_source!r} {why} "
            f"(prompt {prompt.id}, on the response {short(trial_text(prompt))})"
        )

    def _score(self, worker: Worker, prompt: Prompt, text: str) -> tuple[float, float]:
        limits = self._limits
        try:
            answer: tuple[float, float] | RewardError | None = worker.answer(limits.seconds)
        except TimeoutError:
            why = f"gave no answer within {limits.seconds:g} s (verifier.seconds)"
        except (EOFError, OSError):
            why = how_it_ended(worker.wait(limits.seconds), limits)
        else:
            if isinstance(answer, RewardError):
                raise answer
            if answer is not None:
                return answer
            why = f"needed more than {limits.memory_gib:g} GiB (verifier.memory_gib)"
        self._end_child()
        raise ResponseError(
            f"the reward function {why} on the response {short(text)} ({name_of(prompt)}); it must "
            "return on any text, within the limits verifier.*"
        )

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None
