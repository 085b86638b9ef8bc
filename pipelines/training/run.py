"""Everything a run is made of, started and connected, and how far the run has come."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from actors.coordinator import Coordinator
from actors.environment import Scorers, scorers
from actors.health import Quarantine
from actors.learner import Learner
from actors.managed_actor import RestartTracker
from actors.rollout import Rollouts
from actors.server_setup import ServerSetup, api_key
from cluster.placement import Placement
from dps_ray.beliefs.states import Observation
from dps_ray.config import Config
from dps_ray.durable import DEEPSPEED_TAG, Storage
from dps_ray.errors import ConfigError, DPSError
from pipelines.monitoring.run_log import RunLog
from pipelines.monitoring.step_clock import StepClock
from pipelines.monitoring.view import View
from pipelines.rollout.pool import PromptPool
from pipelines.training.checkpoint import Checkpoints
from pipelines.training.fit import check_fit
from pipelines.training.inputs import Inputs
from pipelines.training.opening import Opening
from pipelines.training.pool_record import PoolRecord
from pipelines.training.progress import Progress
from pipelines.training.replay import Replay
from pipelines.training.start import Start


@dataclass
class Run:
    """The parts of a run. `learner` and `progress` change when the run goes back to a checkpoint."""

    config: Config
    model: str
    """Folder of the start policy."""
    pool: PromptPool
    record: PoolRecord
    start: Start | None
    """What was known before the first step."""
    test: PromptPool | None
    storage: Storage
    checkpoints: Checkpoints
    coordinator: Coordinator
    rollouts: Rollouts
    scorers: Scorers
    make_learner: Callable[[int], Learner]
    """Starts the learner of an epoch."""
    quarantine: Quarantine
    restarts: RestartTracker
    log: RunLog
    view: View
    clock: StepClock
    learner: Learner = field(init=False)
    """Set by `History.load_state`."""
    replay: Replay = field(init=False)
    """As `learner`."""
    progress: Progress = field(default_factory=Progress)
    refused: dict[int, DPSError] = field(default_factory=dict)
    """Prompts that were drawn and cannot be used, and why, until the beliefs are told (`Phases.observe`)."""
    steps_lost: int = 0
    """Steps that were done again after the learner was lost."""

    def set_aside(self) -> np.ndarray:
        """Prompts of the training pool that are not to be drawn, as they are in quarantine or cannot be used: int64 (n,),
        ascending."""
        ids = self.quarantine.ids
        if self.test is not None:
            ids = np.setdiff1d(ids, self.test.ids)
        unusable = np.union1d(self.record.aside, np.array([*self.refused], dtype=np.int64))
        return np.union1d(ids, unusable)

    def described(self, found: Observation) -> Observation:
        """The observation of prompts of the whole pool with clusters and sources, as far as the method selects from them."""
        population = self.coordinator.population
        if len(population) < len(self.pool.ids) and population.count > 1:
            found = found.take(population.find(found.ids)[1])
        return population.describe(found)

    def note_rollouts(self, what: str, step: int) -> None:
        """Records in the timeline when each engine worked, and on what: "generate", "probe" or "eval"."""
        for index, spans in self.rollouts.worked().items():
            self.clock.worked(f"rollout/{index}", what, step, spans)

    def metrics(self) -> dict[str, float]:
        """What the parts say of themselves, and the run's counters."""
        return {
            **self.coordinator.metrics,
            **self.scorers.metrics(),
            **self.restarts.metrics(),
            "recovery/steps_lost": float(self.steps_lost),
            "recovery/failed_checkpoints": float(self.checkpoints.failed),
            "recovery/quarantined_prompts": float(self.quarantine.count),
            **self.rollouts.metrics(),
            **self.pool.metrics(),
            "data/prompts_set_aside": float(len(self.record.aside)),
            "coverage/distinct_prompts": float(self.progress.distinct_prompts),
            **self.progress.totals(),
            **self.progress.metrics(),
        }


def start_run(
    opening: Opening, inputs: Inputs, log: RunLog, view: View, joined: bool, ends: ExitStack
) -> Run:
    """Claims the run, reserves what the actors ask for, and starts every actor except the learner.

    Args:
        joined: whether Ray was connected before, and stays after the run: then `ends` gets what ends each actor.

    Raises:
        ResourceError: the cluster lacks what the configuration asks for.
        EngineError: an actor did not start.
    """
    config, model = opening.config, inputs.model

    def at_the_end(stop: Callable[[], None]) -> None:
        if joined:
            ends.callback(stop)

    checkpoints = Checkpoints(
        config,
        opening.storage,
        opening.base,
        fingerprint=inputs.record.population,
        deepspeed_tag=DEEPSPEED_TAG,
        tell=view.message,
    )
    # Reserved after the claim, at which a driver that had the run before gives up its resources.
    placement = Placement.reserve(config, tell=view.message)
    at_the_end(placement.release)
    for line in (*placement.describe(), *check_fit(config, model, placement.learner(0))):
        view.message("  " + line)
    restarts = RestartTracker(view.message, log.event, config.recovery.restarts)
    quarantine = Quarantine(config.recovery.prompt_failures)
    servers = _servers(opening, inputs)
    transfer = servers.served.transfer if servers else None
    transfer = transfer or _transfer(config.resources.rollout.gpus_per_engine)

    def make_learner(epoch: int) -> Learner:
        workers = servers.served.workers if servers else None
        learner = Learner(config, model, transfer, epoch, placement.learner, workers)
        at_the_end(learner.kill)
        return learner

    coordinator = Coordinator(
        config,
        opening.storage,
        inputs.population,
        restarts,
        placement.beliefs,
        inputs.evidence(config),
    )
    at_the_end(coordinator.stop)
    rollouts = Rollouts(config, model, transfer, restarts, quarantine, placement.rollout, servers)
    at_the_end(rollouts.stop)
    scoring = scorers(config, restarts, quarantine, placement.verifiers)
    at_the_end(scoring.stop)
    return Run(
        config,
        model,
        pool=inputs.pool,
        record=inputs.record,
        start=inputs.start,
        test=inputs.test,
        storage=opening.storage,
        checkpoints=checkpoints,
        coordinator=coordinator,
        rollouts=rollouts,
        scorers=scoring,
        make_learner=make_learner,
        quarantine=quarantine,
        restarts=restarts,
        log=log,
        view=view,
        clock=StepClock(config.folder, view.phase),
    )


def _servers(opening: Opening, inputs: Inputs) -> ServerSetup | None:
    """What generates instead of engines; None if the run has its own engines.

    Raises:
        ConfigError: the model takes images.
    """
    if opening.served is None:
        return None
    if inputs.pool.encoder.images is not None:
        raise ConfigError(
            f"rollout.servers={opening.config.rollout.servers} and model.path={opening.config.model.path}: servers are "
            "sent tokens and no images; leave rollout.servers out for a model that takes images"
        )
    return ServerSetup.of(opening.config, inputs.model, opening.served, api_key(opening.config))


def _transfer(gpus_per_engine: float) -> str:
    """The backend that carries weights to the engines. NCCL does not work between processes that share a card."""
    if gpus_per_engine == 0:
        return "gloo"
    return "nccl" if gpus_per_engine >= 1 else "ipc"
