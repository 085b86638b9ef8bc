"""One rank of the learner: the actor around `PolicyTraining`, which sends weights to engines and saves in a thread."""

import functools
import os
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

import ray

from actors.learner_setup import LearnerSetup
from actors.process import free_port, log_to
from dps_ray.durable import Manifest, Storage, Stored
from dps_ray.errors import DPSError
from dps_ray.failpoints import failpoint
from dps_ray.objective.trajectories import Trajectories
from dps_ray.weights import WeightsId

if TYPE_CHECKING:
    from actors.policy_training import PolicyTraining

P = ParamSpec("P")
T = TypeVar("T")


class Trained(NamedTuple):
    """The result of training on a batch."""

    metrics: dict[str, float]
    began: float  # Unix seconds, by this node's clock
    ended: float


def _logged(method: Callable[P, T]) -> Callable[P, T]:
    """Return the method; the traceback of an error that is not a DPSError goes to this rank's log, because the
    driver reports only the error."""

    @functools.wraps(method)
    def call(*arguments: P.args, **options: P.kwargs) -> T:
        try:
            return method(*arguments, **options)
        except DPSError:
            raise
        except Exception:
            traceback.print_exc()
            raise

    return call


@ray.remote(concurrency_groups={"files": 1})
class LearnerRank:
    """One rank. All ranks are called alike, since every pass, save and send is a collective.

    Args:
        epoch: of the driver.
    """

    def __init__(self, setup: LearnerSetup, epoch: int, rank: int):
        log_to(setup.logs, f"learner-{rank}")
        self._setup = setup
        self._epoch = epoch
        self._rank = rank
        self._training: PolicyTraining  # from `start` on
        self._transfer: Any = None
        self._files = ThreadPoolExecutor(1)
        self._saving: Future[list[Stored]] | None = None

    def address(self) -> tuple[str, int]:
        """Return this node's address and a free port there."""
        return ray.util.get_node_ip_address(), free_port()

    @_logged
    def start(self, address: str, port: int, storage: Storage, manifest: Manifest | None) -> None:
        """Join the other ranks, and load the state of a checkpoint or the start policy; see `PolicyTraining`."""
        failpoint("learner.start", epoch=self._epoch, rank=self._rank)
        os.environ.update(
            RANK=str(self._rank),
            WORLD_SIZE=str(self._setup.ranks),
            LOCAL_RANK="0",
            MASTER_ADDR=address,
            MASTER_PORT=str(port),
        )
        # Imports torch and DeepSpeed, which read the environment.
        from actors.policy_training import PolicyTraining

        self._training = PolicyTraining(self._setup, self._rank, self._epoch, storage, manifest)

    @_logged
    def train(self, trajectories: Trajectories, step: int) -> Trained:
        """Make the optimizer steps of one batch; see `PolicyTraining.train`."""
        failpoint("learner.train.before", step=step, rank=self._rank)
        began = time.time()
        metrics = self._training.train(trajectories, step)
        return Trained(metrics, began, time.time())

    @_logged
    def send(self, engines: list[Any] | None, address: str, port: int, weights: WeightsId) -> None:
        """Send the weights, which have this identity, to every engine.

        Args:
            engines: given when they are others than before; then the ranks open a transfer to them at `address:port`.

        Raises:
            TransferError: the weights did not reach all engines.
        """
        failpoint("learner.send", weights=str(weights), rank=self._rank)
        if engines is not None:
            self._connect(engines, address, port)
        self._transfer.send(weights)

    def _connect(self, engines: list[Any], address: str, port: int) -> None:
        """Make the next transfer go to these engines."""
        # Imports vLLM.
        from actors.engine_client import EngineClient
        from actors.guarded_transfer import GuardedTransfer
        from actors.learner_files import whole_weights
        from actors.weight_transfer import TrainedWeights, trainer_init_info

        if self._transfer is not None:
            self._transfer.close()
        workers = self._setup.workers_per_engine
        info = trainer_init_info(
            self._setup.transfer,
            address=address,
            port=port,
            rank=self._rank,
            workers=workers * len(engines),
        )
        self._transfer = GuardedTransfer(
            info,
            EngineClient(engines, workers, self._setup.transfer_timeout),
            TrainedWeights(self._training.engine, whole_weights),
        )

    @_logged
    def logprobs(self, trajectories: Trajectories) -> list[float]:
        """Return the log-probability of each response token under the current weights, concatenated (R,)."""
        return self._training.logprobs(trajectories)

    @_logged
    def save(self, storage: Storage, folder: str) -> None:
        """Write the files of a checkpoint. They are not durable yet: see `saved`.

        Raises:
            CheckpointError: a rank could not write; all raise it.
        """
        self._saving = self._files.submit(self._training.save(storage, folder))

    @ray.method(concurrency_group="files")
    @_logged
    def saved(self) -> list[Stored]:
        """Return the files of this rank's last `save`, once they are durable. The rank may train meanwhile.

        Raises:
            CheckpointError: one could not be made durable.
        """
        assert self._saving is not None, "asked before anything was saved"
        return self._saving.result()
