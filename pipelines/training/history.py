"""Saving a run, and going back to what was saved when the learner is lost.

save ─> begin a checkpoint ──(the next batch is rolled out)──> commit        rewind: load the newest again
"""

from dataclasses import asdict

from actors.belief_shard import BeliefVersion
from dps_ray.durable import Manifest
from dps_ray.errors import CheckpointError, LearnerLostError
from pipelines.training.checkpoint import records_of
from pipelines.training.progress import Progress
from pipelines.training.replay import Replay
from pipelines.training.run import Run


class History:
    """The checkpoints of one run: when they are due, what they hold, and how the run returns to one."""

    def __init__(self, run: Run) -> None:
        self._run = run

    # Saving.

    def save_if_due(self) -> None:
        """Begins a checkpoint, which is written while the next batch is rolled out."""
        run = self._run
        step, every = run.progress.step, run.config.checkpoint.every
        if step == run.config.loop.steps or is_due(step, every) or self._is_best():
            self._begin()

    def commit(self) -> None:
        """Waits for the checkpoint that is being written, if there is one, and commits it."""
        run = self._run
        with run.clock.timed("checkpoint"):
            manifest = run.checkpoints.complete()
        if manifest is not None:
            run.coordinator.committed(manifest.name)

    def commit_last(self) -> None:
        """Leaves a checkpoint of the present step.

        Raises:
            CheckpointError: it could not be written.
        """
        checkpoints, step = self._run.checkpoints, self._run.progress.step
        self.commit()
        if checkpoints.newest_step != step:
            self._begin()
            self.commit()
        if checkpoints.newest_step != step:
            raise CheckpointError(
                f"step {step} could not be saved; the newest checkpoint is of step {checkpoints.newest_step}"
            )

    def _is_best(self) -> bool:
        """Whether the present policy is the most accurate so far and has to be kept. The start policy needs no
        checkpoint."""
        run = self._run
        found = run.progress.accuracy_at(run.progress.step)
        if not run.config.checkpoint.keep_best or found is None or run.progress.step == 0:
            return False
        best = run.checkpoints.best
        before = [run.progress.accuracy_at(0), best.accuracy if best else None]
        return all(one is None or found > one for one in before)

    def _begin(self) -> None:
        run = self._run
        step, checkpoints = run.progress.step, run.checkpoints
        if step == checkpoints.pending_step:
            return
        # A checkpoint of this step by an earlier epoch may be older than the accuracy measured at it.
        if step == checkpoints.newest_step and not self._is_best():
            return
        checkpoints.begin(
            step,
            run.learner.version,
            lambda folder: [
                run.coordinator.save(folder),
                run.record.saving(run.storage, folder),
                run.replay.saving(run.storage, folder),
                *([] if run.start is None else [run.start.saving(run.storage, folder)]),
                run.learner.save(run.storage, folder).result,
            ],
            {
                "progress": asdict(run.progress),
                "quarantine": {str(i): n for i, n in run.quarantine.failures.items()},
            },
            run.progress.accuracy_at(step),
        )

    # Going back.

    def start(self, manifest: Manifest | None) -> None:
        """Starts the learner and loads a checkpoint into every part of the run; None is the run's beginning.

        Raises:
            EngineError: an actor was lost too often.
            CheckpointError: the checkpoint cannot be read; or there is none, and none could be written.
        """
        try:
            self.load_state(manifest)
        except LearnerLostError as error:
            self.rewind(error)

    def load_state(self, manifest: Manifest | None) -> None:
        """As `start`.

        Raises:
            LearnerLostError: the learner was lost meanwhile; the caller replaces it.
        """
        run, config = self._run, self._run.config
        records = {} if manifest is None else records_of(run.storage, manifest)
        run.progress = Progress(**records.get("progress", {}))
        if manifest is None and run.start is not None:
            run.progress.charge(run.start.rollouts, run.start.tokens)
        run.record.rewind(run.storage, manifest, run.pool.table)
        run.replay = Replay.load(config.loop.replay, config.seed, run.storage, manifest)
        run.refused = {}
        run.quarantine.failures = {int(i): n for i, n in records.get("quarantine", {}).items()}
        if config.resources.colocate:
            run.rollouts.wait_until_ready()
            run.rollouts.sleep()
        run.learner = run.make_learner(run.checkpoints.epoch)
        run.learner.start(run.storage, manifest)
        name, step = (None, -1) if manifest is None else (manifest.name, manifest.step)
        run.coordinator.rewind(BeliefVersion(run.checkpoints.epoch, run.progress.step, name))
        run.log.rewind(step)  # what was recorded after the checkpoint did not happen
        if manifest is None and run.progress.rollouts:
            run.log.step(0, run.progress.totals())
        run.clock.rewind(run.progress.step)
        run.view.rewind(run.progress.step)
        run.rollouts.wait_until_ready()
        run.rollouts.publish(run.learner)

    def rewind(self, error: LearnerLostError) -> None:
        """Replaces the learner. The steps since the newest checkpoint are lost with it, so all of the run goes back.

        Raises:
            EngineError: the learner was lost too often.
        """
        run, reached = self._run, self._run.progress.step
        while True:
            run.restarts.lost("learner", "the learner", f"was lost: {error}")
            run.learner.kill()
            try:
                self.load_state(run.checkpoints.go_back())
                break
            except LearnerLostError as again:
                error = again
        run.steps_lost += reached - run.progress.step
        run.restarts.back("learner", "the learner")
        run.view.message(f"the run goes on after step {run.progress.step}")


def is_due(step: int, every: int) -> bool:
    """Whether something that happens every so many steps happens after this one; never with `every` 0."""
    return step > 0 and every > 0 and step % every == 0
