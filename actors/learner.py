"""The learner as the driver uses it: the group of DeepSpeed ranks that train the policy, with one method for each phase.

    Learner ──> LearnerRank (an actor, `learner_rank.py`) × ranks ──> PolicyTraining (`policy_training.py`)

The ranks are started and ended together, since without one the others wait for it in a collective. A method raises
`LearnerLostError` when a rank died, was silent for too long, or raised an error other than a DPSError. Then `kill`
ends the others, and another `Learner`, started from a manifest, takes their place.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from actors.calls import Lost, answer, collect, wait
from actors.learner_rank import LearnerRank, Trained
from actors.learner_setup import LearnerSetup
from actors.process import environment
from dps_ray.config import Config
from dps_ray.durable import Manifest, Storage, Stored
from dps_ray.errors import DPSError, EngineError, LearnerLostError, NonFiniteError, TransferError
from dps_ray.objective.trajectories import Trajectories
from dps_ray.weights import WeightsId

# Seconds for Ray to notice that a rank died, after another rank has failed because of it.
_NOTICE = 5.0


@dataclass(frozen=True)
class Saving:
    """A checkpoint that the ranks are writing."""

    _ranks: Sequence[Any]
    _calls: Sequence[Any]
    _timeout: float

    def result(self) -> list[Stored]:
        """Wait for the checkpoint, and return the files written. They are hashed, and copied to an object store, while
        the ranks may train again.

        Raises:
            CheckpointError: the files could not be written; the learner is unchanged and can train on.
            LearnerLostError: a rank died or failed during a collective, or did not finish within
                timeouts.checkpoint.
        """
        _answers(self._calls, self._timeout, "save")
        calls = [rank.saved.remote() for rank in self._ranks]
        return [stored for part in _answers(calls, self._timeout, "save") for stored in part]


@dataclass(frozen=True)
class Training:
    """A batch that the learner is training on."""

    _learner: "Learner"
    _calls: Sequence[Any]
    _timeout: float
    _step: int

    def result(self) -> Trained:
        """Wait until the training has ended, after which the weights are version `step`. Later calls return the same.

        Raises:
            NonFiniteError: a loss or gradient is NaN or infinite, with recovery.on_nonfinite=stop.
            LearnerLostError: a rank died or failed, or did not finish within timeouts.train.
        """
        try:
            trained: Trained = _answers(self._calls, self._timeout, "train")[0]
        finally:
            if self._learner.training is self:
                self._learner.training = None
        self._learner.version = self._step
        return trained


class Learner:
    """The group of ranks as one object.

    Args:
        model: Hugging Face folder of the start policy.
        transfer: how weights go to the engines, "gloo", "nccl" or "ipc".
        epoch: of the driver.
        place: returns, for a rank, the Ray options that say where it runs, and with what.
        workers_per_engine: as `LearnerSetup.of` has it.
    """

    def __init__(
        self,
        config: Config,
        model: str,
        transfer: str,
        epoch: int,
        place: Callable[[int], dict[str, Any]],
        workers_per_engine: int | None = None,
    ):
        setup = LearnerSetup.of(config, model, transfer, workers_per_engine)
        self._timeouts = config.timeouts
        self._wait = config.resources.wait
        self._epoch = epoch
        self._ranks = [
            LearnerRank.options(  # type: ignore[attr-defined]
                **place(rank),
                runtime_env=environment(
                    threads=None if setup.on_gpu else config.learner.threads,
                    extra=None if setup.on_gpu else {"DS_ACCELERATOR": "cpu"},
                ),
            ).remote(setup, epoch, rank)
            for rank in range(setup.ranks)
        ]
        self._connected: list[Any] = []
        self.training: Training | None = None  # the training in progress
        self.version = 0  # of the weights: the training step that made them

    @property
    def weights(self) -> WeightsId:
        """Identity of the current weights."""
        return WeightsId(self._epoch, self.version)

    def start(self, storage: Storage, manifest: Manifest | None) -> None:
        """Start the ranks with a checkpoint's state, or with the start policy if there is none.

        Raises:
            CheckpointError: it cannot be read; or there is none, and none could be written.
            LearnerLostError: a rank died, failed, or did not start in time.
        """
        timeout = self._wait + (self._timeouts.checkpoint if manifest else 0.0)
        self._call("start", *self._meeting_point(), storage, manifest, timeout=timeout)
        self.version = manifest.weight_version if manifest else 0

    def train(self, trajectories: Trajectories, step: int) -> Training:
        """Begin to train on one batch; see `Training`.

        Returns:
            The training, whose result has these metrics: verl's `actor/...` and, with PPO, `critic/...`;
            `actor/nonfinite_minibatches` and `critic/nonfinite_minibatches`, the number of minibatches left out;
            `rollout/logprob_diff_mean`, the difference of the engines' log-probabilities to the learner's own before
            the batch, in nats a token; and `rollout/importance_...`, mean, maximum and share at the cap of the weights
            that correct for it. Without a single optimizer step there are no means.

        Raises:
            NonFiniteError: an advantage, a score or a log-probability is NaN or infinite.
        """
        _check_finite(trajectories, step)
        shared = ray.put(trajectories)
        calls = [rank.train.remote(shared, step) for rank in self._ranks]
        self.training = Training(self, calls, self._timeouts.train, step)
        return self.training

    def send(self, engines: list[Any]) -> None:
        """Give these engines the current weights. If the learner is training, wait for that first.

        Raises:
            TransferError: the weights did not reach all engines.
        """
        if self.training is not None:
            self.training.result()
        meet = None if engines == self._connected else engines
        where = self._meeting_point() if meet else ("", 0)
        self._connected = []  # until it is known that the connection holds
        self._call("send", meet, *where, self.weights, timeout=self._timeouts.publish)
        self._connected = list(engines)

    def logprobs(self, trajectories: Trajectories) -> list[float]:
        """Return the log-probability of each response token under the current weights, concatenated (R,)."""
        return list(self._call("logprobs", ray.put(trajectories), timeout=self._timeouts.train)[0])

    def save(self, storage: Storage, folder: str) -> Saving:
        """Begin to write the current state to `folder/learner` and `folder/model`; see `Saving`."""
        calls = [rank.save.remote(storage, folder) for rank in self._ranks]
        return Saving(self._ranks, calls, self._timeouts.checkpoint)

    def kill(self) -> None:
        """End every rank, whatever it is doing."""
        for rank in self._ranks:
            with suppress(Exception):  # already gone
                ray.kill(rank)

    def _meeting_point(self) -> tuple[str, int]:
        """Return the address of rank 0's node, and a free port there."""
        calls = [self._ranks[0].address.remote()]
        address, port = _answers(calls, self._wait, "say its address")[0]
        return address, port

    def _call(self, method: str, *arguments: Any, timeout: float) -> list[Any]:
        calls = [getattr(rank, method).remote(*arguments) for rank in self._ranks]
        return _answers(calls, timeout, method)


def _answers(calls: Sequence[Any], timeout: float, what: str) -> list[Any]:
    """Return the answer of each rank.

    Raises:
        LearnerLostError: a rank died, gave no answer within `timeout` seconds, or raised an error other than a
            DPSError. Then the other ranks may be waiting for it in a collective.
        DPSError: one that a rank itself raised.
    """
    try:
        return collect(calls, timeout, "learner rank", what)
    except Exception as error:
        why = _why_lost(error, calls, what)
        if why is None:
            raise
        raise LearnerLostError(why) from error


def _why_lost(error: Exception, calls: Sequence[Any], what: str) -> str | None:
    """Return why the group cannot be used after this error of one of its calls; None if it still can."""
    if isinstance(error, EngineError) and not isinstance(error, TransferError):
        return str(error)  # from `collect`: a rank died or was silent
    # When a rank dies, the others' collectives may fail before Ray knows of it.
    done, _ = wait(calls, len(calls), _NOTICE)
    died, failed = [], []
    for rank, call in enumerate(calls):
        try:
            found = answer(call) if call in done else None
        except DPSError:
            continue
        except Exception as raised:
            failed.append(
                f"learner rank {rank} failed, while it was to {what}: {type(raised).__name__}: {raised} "
                f"(traceback in logs/learner-{rank}.log)"
            )
        else:
            if isinstance(found, Lost):
                died.append(f"learner rank {rank} {found.why}, while it was to {what}")
    reasons = died if isinstance(error, DPSError) else died + failed
    return reasons[0] if reasons else None


def _check_finite(trajectories: Trajectories, step: int) -> None:
    for name, values in (
        ("advantages", trajectories.advantages),
        ("scores", trajectories.scores),
        ("log-probabilities", trajectories.logprobs),
    ):
        if values is not None and not np.isfinite(values).all():
            raise NonFiniteError(
                f"step {step}: {int((~np.isfinite(values)).sum())} of the batch's {len(values)} {name} are NaN "
                "or infinite; nothing was trained on. Look at the scores of the reward function, and at "
                "the engines' log"
            )
