"""The training loop: dynamics-predictive sampling around GRPO.

    select ──> generate ──> score ──> observe ──> train ──> publish ──> log ──> checkpoint
      ▲ coordinator  engines   verifiers    │beliefs   learner    engines
      └─────────────────────────────────────┘

With loop.max_staleness=1 the next batch is rolled out between `train` and `publish`:

    engines   batch 1 ──┐ batch 2 ────┐ batch 3 ────┐         batch t + 1 has the weights that
    learner             └─ train on 1 ┘─ train on 2 ┘─ ...    the learner begins step t with

`Trainer.train` and `Trainer.step` are the algorithm; the methods below say what each phase consumes and
produces. What is lost meanwhile is replaced within a phase, but for the learner, with which the run goes back. It
is the same before the first step, and while another actor is being replaced.
"""

import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from actors.belief_shard import BeliefVersion
from actors.coordinator import Coordinator
from actors.health import Quarantine
from actors.learner import Learner, Training
from actors.member import Recoveries
from actors.rollout import Rollouts, Sampling
from actors.verifier import Verifiers
from dps_ray.config import Config
from dps_ray.durable import Manifest, Storage
from dps_ray.errors import (
    CheckpointError,
    DPSError,
    EngineError,
    LearnerLostError,
    RewardError,
    StaleError,
)
from dps_ray.failpoints import failpoint
from dps_ray.groups import ScoredGroup
from pipelines.command.stopping import Stopping
from pipelines.monitoring.metrics import held_out_accuracy
from pipelines.monitoring.run_log import RunLog
from pipelines.monitoring.step_clock import StepClock
from pipelines.monitoring.view import View
from pipelines.rollout.answers import answer, metrics_of, sampling_of
from pipelines.rollout.batch import Batch, observation_of, to_trajectories
from pipelines.rollout.pool import PromptPool
from pipelines.rollout.probe import Probe, drawn, probe_of
from pipelines.rollout.roll_out import roll_out
from pipelines.training.checkpoint import Checkpoints, records_of
from pipelines.training.progress import Progress

_SAMPLES_A_STEP = 2  # responses kept for the report


class Prepared(NamedTuple):
    """What the engines have done for a step: all that it needs to be observed and trained on."""

    step: int
    batch: Batch
    probe: Probe | None


class Learning(NamedTuple):
    """What the learner was given."""

    staleness: np.ndarray  # (groups scored,) weight versions between sampling and training
    training: Training | None  # None when no group carries gradient


class Trainer:
    """Everything a run is made of, started and connected; see `pipelines.grpo_dps.assemble`."""

    def __init__(
        self,
        config: Config,
        *,
        pool: PromptPool,
        test: PromptPool | None,
        storage: Storage,
        checkpoints: Checkpoints,
        coordinator: Coordinator,
        rollouts: Rollouts,
        verifiers: Verifiers,
        make_learner: Callable[[int], Learner],
        quarantine: Quarantine,
        recoveries: Recoveries,
        log: RunLog,
        view: View,
        stopping: Stopping,
    ):
        self.config = config
        self.pool = pool
        self.test = test
        self.storage = storage
        self.checkpoints = checkpoints
        self.coordinator = coordinator
        self.rollouts = rollouts
        self.verifiers = verifiers
        self.make_learner = make_learner  # of an epoch
        self.quarantine = quarantine
        self.recoveries = recoveries
        self.log = log
        self.view = view
        self.stopping = stopping
        self.learner: Learner  # from `begin_at` on
        self.progress = Progress()
        self.ahead: Prepared | None = None  # the next step's, rolled out while the learner trained
        self.steps_lost = 0
        self.furthest = 0  # the last step that a learner was trained on, lost steps included
        self.clock = StepClock(config.folder, view.phase)

    def start(self, manifest: Manifest | None) -> None:
        """Start the learner, and take up the run where this checkpoint left it; None is its beginning.

        Raises:
            EngineError: an actor was lost too often.
            CheckpointError: the checkpoint cannot be read; or there is none, and none could be written.
        """
        try:
            self.begin_at(manifest)
        except LearnerLostError as error:
            self.go_back(error)

    def run(self) -> None:
        """Train from the step after `progress.step` to the last."""
        while True:
            try:
                return self.train()
            except LearnerLostError as error:
                with self.stopping.held():
                    self.go_back(error)

    def train(self) -> None:
        """Step by step to the last, with evaluations and checkpoints where they are due."""
        while True:
            self.measure_accuracy()
            self.save()
            if self.progress.step >= self.config.loop.steps:
                return self.commit_last()
            self.step(self.progress.step + 1)

    def step(self, step: int) -> None:
        """One training step; with `max_staleness` the next one's batch is rolled out while this one's is trained on.

        Until its observation is written down a step can be dropped; from then on it counts, and is finished.
        """
        self.clock.begin(step)
        now, self.ahead = self.ahead or self.prepare(step), None
        learning = None
        try:
            with self.stopping.held():
                self.observe(now)
                learning = self.begin_to_learn(now)
            if self.config.loop.max_staleness > 0 and step < self.config.loop.steps:
                self.ahead = self.prepare(step + 1)
        except BaseException:
            if learning is not None:
                self.finish(
                    now, learning, publish=False
                )  # engines may be busy with what is dropped
            raise
        self.finish(now, learning)

    def finish(self, now: Prepared, learning: Learning, publish: bool = True) -> None:
        """Wait for the learner, give the engines the new weights, and record the step."""
        with self.stopping.held():
            metrics = self.learn(learning)
            if publish and learning.training is not None:
                with self.clock.timed("publish"):
                    self.rollouts.publish(self.learner)
            self.record(now, metrics)

    def prepare(self, step: int) -> Prepared:
        """All that engines and verifiers do for a step. A checkpoint that was being written meanwhile is
        committed."""
        probe = self.probe(step)
        batch = self.gather(step)
        with self.stopping.held():
            self.commit()
        return Prepared(step, batch, probe)

    def gather(self, step: int) -> Batch:
        """Select prompts, roll them out and score the responses.

        With filter_groups that is repeated with other prompts until the batch has B partial groups
        (Dynamic Sampling), the pool is used up, or max_gen_batches is reached.
        """
        loop, k = self.config.loop, self.config.rollout.group_size
        batch = Batch()
        for _ in range(loop.max_gen_batches if loop.filter_groups else 1):
            self.coordinator.excluded = self.set_aside()
            left = len(self.pool.ids) - len(np.union1d(batch.tried, self.set_aside()))
            with self.clock.timed("select"):
                selection = self.coordinator.select(min(loop.batch_size, left), batch.tried)
            answers = self.roll_out("generate", step, selection.ids)
            batch.add(selection, answers, k)
            if batch.partial >= loop.batch_size or left <= loop.batch_size:
                break
        if not batch.scored:
            kind = RewardError if isinstance(batch.errors[0], RewardError) else EngineError
            raise kind(f"step {step}: all {len(batch.errors)} groups failed; {batch.errors[0]}")
        return batch

    def roll_out(self, what: str, step: int, ids: np.ndarray) -> list[ScoredGroup | DPSError]:
        """A scored group, or why there is none, for each prompt.

        Args:
            what: "generate" for a batch, or "probe".
        """
        rollout = self.config.rollout
        sampling = Sampling(
            responses=rollout.group_size,
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            max_tokens=rollout.max_response_length,
            seed=f"{self.config.seed}/{'step' if what == 'generate' else what}-{step}",
        )
        answers = roll_out(
            self.pool, ids, sampling, self.rollouts, self.verifiers, self.clock.timed
        )
        self._note_rollouts(what, step)
        return answers

    def _note_rollouts(self, what: str, step: int) -> None:
        for index, spans in self.rollouts.worked().items():
            self.clock.worked(f"rollout/{index}", what, step, spans)

    def set_aside(self) -> np.ndarray:
        """Prompts of the pool in quarantine, int64; those of the evaluation are nobody's to select."""
        ids = self.quarantine.ids
        return ids if self.test is None else np.setdiff1d(ids, self.test.ids)

    def observe(self, now: Prepared) -> None:
        """The beliefs see every group that was scored, before any filter."""
        selector = self.config.selector
        observation = observation_of(now.batch.scored, selector.learns_from_rewards)
        self.coordinator.excluded = self.set_aside()
        with self.clock.timed("observe"):
            failpoint("driver.observe.before", step=now.step)
            self.coordinator.observe(now.step, observation)
            failpoint("driver.observe.after", step=now.step)

    def begin_to_learn(self, now: Prepared) -> Learning:
        """Have the learner train on the groups that carry gradient, if there are any."""
        loop, groups = self.config.loop, self.useful(now.batch)
        staleness = now.batch.staleness(self.learner.version)
        if staleness.max() > loop.max_staleness:
            raise StaleError(
                f"step {now.step}: a group was sampled {staleness.max()} weight versions ago, and "
                f"loop.max_staleness={loop.max_staleness}"
            )
        if not groups:
            self.view.message(f"step {now.step}: no group carries gradient; the weights stay")
            return Learning(staleness, None)
        with self.clock.timed("train"):
            if self.config.resources.colocate:
                self.rollouts.sleep()
            trajectories = to_trajectories(groups, self.config.objective, loop.batch_size)
            return Learning(staleness, self.learner.train(trajectories, now.step))

    def learn(self, learning: Learning) -> dict[str, float]:
        """Wait for the learner."""
        metrics = {
            "staleness/mean": float(learning.staleness.mean()),
            "staleness/max": float(learning.staleness.max()),
        }
        if learning.training is None:
            return metrics
        with self.clock.timed("train"):
            trained = learning.training.result()
        # Steps that are done again are no success: if one of them is what breaks the learner, it would be
        # replaced for ever.
        if self.learner.version > self.furthest:
            self.furthest = self.learner.version
            self.recoveries.well("learner", "the learner")
        self.clock.worked(
            "learner", "train", self.learner.version, [(trained.began, trained.ended)]
        )
        return {**metrics, **trained.metrics}

    def useful(self, batch: Batch) -> list[ScoredGroup]:
        """The groups to train on."""
        loop = self.config.loop
        return batch.useful(only_partial=loop.filter_groups, limit=loop.batch_size)

    def probe(self, step: int) -> Probe | None:
        """Roll out a uniform sample of the pool, when it is due.

        With the weights that the step's own batch is sampled with. It is charged to the run. Neither
        beliefs nor learner see it, so that it stays a measurement.
        """
        settings = self.config.probe
        if settings.every == 0 or not (step == 1 or _due(step, settings.every)):
            return None
        with self.clock.only("probe"):
            ids = drawn(self.pool.ids, settings.prompts, seed=self.config.seed, step=step)
            answers = self.roll_out("probe", step, np.setdiff1d(ids, self.set_aside()))
        return probe_of(answers, self.config.rollout.group_size)

    def measure_accuracy(self) -> None:
        """Accuracy on the held-out prompts, when it is due: logged and kept for the summary."""
        step, settings = self.progress.step, self.config.eval
        due = step in (0, self.config.loop.steps) or _due(step, settings.every)
        if self.test is None or not due or self.progress.evaluated == step:
            return
        longest = self.config.rollout.max_response_length
        sampling = sampling_of(settings, longest, self.config.seed)
        began = time.monotonic()
        self.view.phase("eval")
        ids = self.test.ids[: settings.max_prompts]
        answers = answer(
            self.test, ids, sampling, self.rollouts, self.verifiers, self.view.progress
        )
        metrics = metrics_of([each.without_texts() for each in chain.from_iterable(answers)])
        metrics["timing_s/eval"] = time.monotonic() - began
        self._note_rollouts("eval", step)
        self.progress.evaluated = step
        self.progress.seconds += metrics["timing_s/eval"]
        accuracy = held_out_accuracy(metrics)
        if accuracy is not None:
            self.progress.accuracy.append({"step": step, **accuracy._asdict()})
        self.log.step(step, metrics)
        self.view.step(step, metrics)

    def record(self, now: Prepared, metrics: dict[str, float]) -> None:
        """Count what the step cost and log what it showed."""
        step, batch, probe = now
        seconds = self.clock.seconds
        groups = self.useful(batch)
        trained = sum(len(scored.group.responses) for scored in groups)
        self.progress.add(step, batch, probe, trained, seconds)
        if probe is not None:
            self.log.probe(step, self.coordinator.clustered(probe.found))
            metrics = {**metrics, "probe/partial_solve_ratio": probe.partial}
        if batch.errors:
            self.view.message(f"step {step}: {len(batch.errors)} groups dropped; {batch.errors[0]}")
        times = self.clock.metrics()
        everything = {
            "training/step": float(step),
            **batch.metrics(),
            "batch/useful_groups": float(len(groups)),
            **metrics,
            **self.coordinator.metrics,
            **self.verifiers.metrics(),
            **self.recovery_metrics(),
            **self.rollouts.metrics(),
            **times,
            "coverage/distinct_prompts": float(self.progress.distinct_prompts),
            "perf/total_rollouts": float(self.progress.rollouts),
            "perf/total_tokens": float(self.progress.tokens),
            "perf/throughput": batch.tokens / times["timing_s/step"],
        }
        self.log.step(step, everything)
        self.log.samples(_samples(step, batch, self.pool))
        self.view.step(step, everything)

    def recovery_metrics(self) -> dict[str, float]:
        return {
            **self.recoveries.metrics(),
            "recovery/steps_lost": float(self.steps_lost),
            "recovery/failed_checkpoints": float(self.checkpoints.failed),
            "recovery/quarantined_prompts": float(self.quarantine.count),
        }

    # Saving, and going back.

    def save(self) -> None:
        """Have a checkpoint written while the next batch is rolled out, when it is due."""
        step, last = self.progress.step, self.config.loop.steps
        if step == last or _due(step, self.config.checkpoint.every) or self.is_best():
            self.begin_checkpoint()

    def is_best(self) -> bool:
        """Whether the policy as it is now is to be kept for its accuracy, and is not yet. The start policy,
        which may be the best, is somewhere else."""
        found = self.progress.accuracy_at(self.progress.step)
        if not self.config.checkpoint.keep_best or found is None or self.progress.step == 0:
            return False
        before = [
            self.progress.accuracy_at(0),
            best.accuracy if (best := self.checkpoints.best) else None,
        ]
        return all(one is None or found > one for one in before)

    def begin_checkpoint(self) -> None:
        step = self.progress.step
        # One of an earlier epoch may have been made before the accuracy was measured.
        if step == self.checkpoints.newest_step and not self.is_best():
            return
        self.checkpoints.begin(
            step,
            self.learner.version,
            lambda folder: [
                self.coordinator.save(folder),
                self.learner.save(self.storage, folder).result,
            ],
            {
                "progress": asdict(self.progress),
                "quarantine": {str(i): n for i, n in self.quarantine.failures.items()},
            },
            self.progress.accuracy_at(step),
        )

    def commit(self) -> None:
        """Make a checkpoint of what was written since `begin_checkpoint`."""
        with self.clock.timed("checkpoint"):
            manifest = self.checkpoints.complete()
        if manifest is not None:
            self.coordinator.committed(manifest.name)

    def commit_last(self) -> None:
        """Leave a checkpoint of the present step.

        Raises:
            CheckpointError: it could not be written.
        """
        self.commit()
        if self.checkpoints.newest_step != self.progress.step:
            self.begin_checkpoint()
            self.commit()
        if self.checkpoints.newest_step != self.progress.step:
            raise CheckpointError(
                f"step {self.progress.step} could not be saved; the newest checkpoint is of step "
                f"{self.checkpoints.newest_step}"
            )

    def begin_at(self, manifest: Manifest | None) -> None:
        """As `start`, but a learner that is lost meanwhile is for the caller to replace."""
        records = {} if manifest is None else records_of(self.storage, manifest)
        self.progress = Progress(**records.get("progress", {}))
        self.quarantine.failures = {int(i): n for i, n in records.get("quarantine", {}).items()}
        self.ahead = None
        if self.config.resources.colocate:
            self.rollouts.wait_until_ready()
            self.rollouts.sleep()
        self.learner = self.make_learner(self.checkpoints.epoch)
        self.learner.start(self.storage, manifest)
        name = None if manifest is None else manifest.name
        self.coordinator.rewind(BeliefVersion(self.checkpoints.epoch, self.progress.step, name))
        # What was recorded after it did not happen; without one, nothing did.
        self.log.resume_at(-1 if manifest is None else manifest.step)
        self.clock.resume_at(self.progress.step)
        self.view.resume_at(self.progress.step)
        self.rollouts.wait_until_ready()
        self.rollouts.publish(self.learner)

    def go_back(self, error: LearnerLostError) -> None:
        """The learner is gone, and with it the steps since the last checkpoint: all of the run goes back.

        Raises:
            EngineError: it was lost too often.
        """
        reached = self.progress.step
        while True:
            self.recoveries.lost("learner", "the learner", f"was lost: {error}")
            self.learner.kill()
            try:
                self.begin_at(self.checkpoints.go_back())
                break
            except LearnerLostError as again:
                error = again
        self.steps_lost += reached - self.progress.step
        self.recoveries.back("learner", "the learner")
        self.view.message(f"the run goes on after step {self.progress.step}")


def _due(step: int, every: int) -> bool:
    return step > 0 and every > 0 and step % every == 0


def _samples(step: int, batch: Batch, pool: PromptPool) -> list[dict[str, Any]]:
    """The first response of a few groups, for a person to read."""
    chosen = batch.scored[:_SAMPLES_A_STEP]
    prompts = pool.prompts(np.array([scored.group.prompt_id for scored in chosen]))
    return [
        {
            "step": step,
            "prompt_id": prompt.id,
            "data_source": prompt.data_source,
            "prompt": "\n".join(str(message["content"]) for message in prompt.messages),
            "response": scored.group.responses[0].text,
            "score": float(scored.scores[0]),
            "acc": float(scored.accuracies[0]),
            "state": scored.state,
            "ground_truth": prompt.ground_truth,
        }
        for prompt, scored in zip(prompts, chosen, strict=True)
    ]
