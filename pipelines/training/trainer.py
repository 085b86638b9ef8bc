"""The training loop: dynamics-predictive sampling around GRPO.

    select ──> generate ──> score ──> observe ──> train ──> publish ──> log ──> checkpoint
      ▲ coordinator  engines   verifiers    │beliefs   learner    engines
      └─────────────────────────────────────┘

With loop.max_staleness=1 the next batch is rolled out between `train` and `publish`:

    engines   batch 1 ──┐ batch 2 ────┐ batch 3 ────┐         batch t + 1 has the weights that
    learner             └─ train on 1 ┘─ train on 2 ┘─ ...    the learner begins step t with

`Trainer.step` is the algorithm. Its phases are in `phases.py`, checkpoints and going back in `history.py`, the
actors in `run.py`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from cluster.start import connect
from dps_ray.config import Config, settings
from dps_ray.errors import LearnerLostError, RewardError
from pipelines.command.stopping import Stopping, StopRequested
from pipelines.monitoring.loggers import make_loggers
from pipelines.monitoring.report import build_report
from pipelines.monitoring.run_log import RunLog
from pipelines.monitoring.summary import summarize
from pipelines.monitoring.view import View, make_view
from pipelines.rollout.batch import Batch
from pipelines.rollout.pool import PromptPool
from pipelines.rollout.probe import Probe
from pipelines.training.held_out import evaluate, evaluation_is_due
from pipelines.training.history import History
from pipelines.training.inputs import prepare
from pipelines.training.opening import Opening, open_run
from pipelines.training.phases import Learning, Phases
from pipelines.training.run import Run, start_run
from pipelines.training.summary import summary_of

_SAMPLES_A_STEP = 2  # responses kept for the report


class StepResult(NamedTuple):
    """A training step that is done."""

    step: int
    """From 1. After the learner was lost, the steps since the last checkpoint come again."""
    metrics: dict[str, float]
    """By the names in metrics.jsonl, with those of an evaluation where the step had one."""


class Callback:
    """What a program does besides training. Override the methods that are needed."""

    def on_step(self, trainer: "Trainer", result: StepResult) -> None:
        """Called after each step, its evaluation and the beginning of its checkpoint."""

    def on_evaluation(self, trainer: "Trainer", step: int, metrics: Mapping[str, float]) -> None:
        """Called after each evaluation; step 0 is the start policy."""


class Prepared(NamedTuple):
    """A step that was rolled out, and can be observed and trained on."""

    step: int
    batch: Batch
    probe: Probe | None


class Trainer:
    """Trains a policy, and leaves a run folder with metrics, checkpoints and a report.

        config = Config.load("countdown", folder="runs/mine")
        with Trainer.build(config) as trainer:
            for result in trainer:
                print(result.step, result.metrics["tasksample/partial_solve_ratio"])
            print(trainer.evaluate())

    If the folder holds a run with these settings, the trainer continues it. Ray is joined if this process is connected
    to it already, and stays up then.
    """

    def __init__(
        self,
        run: Run,
        *,
        callbacks: Sequence[Callback] = (),
        stopping: Stopping | None = None,
        ends: ExitStack | None = None,
        command: str = "",
    ) -> None:
        """`Trainer.build` is the way to make one. `ends` closes what the run is made of."""
        self.run = run
        self.history = History(run)
        self.phases = Phases(run)
        self.summary: dict[str, Any] | None = None
        """The closing account, once the last step is done."""
        self._callbacks = callbacks
        self._stopping = stopping or Stopping()
        self._ends = ends or ExitStack()
        self._command = command
        self._ahead: Prepared | None = None  # the next step, rolled out while the learner trained

    @classmethod
    def build(
        cls, config: Config, *, callbacks: Sequence[Callback] = (), view: View | None = None
    ) -> Self:
        """Checks and loads everything, starts the actors, and continues the run in the folder if there is one.

        Args:
            view: shows progress; by default a panel at a terminal, and lines elsewhere.

        Raises:
            DPSError: of the type that says what is wrong: ConfigError, DataError, ModelError, RewardError,
                ResourceError, CheckpointError, EngineError.
        """
        with ExitStack() as ends:
            view = view or ends.enter_context(make_view(config.loop.steps))
            trainer = cls.start(open_run(config, view), view, callbacks=callbacks)
            ends.push(trainer._ends)
            trainer._ends = ends.pop_all()
            return trainer

    @classmethod
    def start(
        cls,
        opening: Opening,
        view: View,
        *,
        callbacks: Sequence[Callback] = (),
        stopping: Stopping | None = None,
        command: str = "",
    ) -> Self:
        """As `build`, of a run whose folders are checked.

        Args:
            stopping: signals to handle from the time when Ray is started, which sets handlers of its own.
            command: that started the run, for the report.
        """
        config, base = opening.config, opening.base
        inputs = prepare(config, view, opening.storage, base)
        if base is not None:
            view.message(f"continues from checkpoint {base.name}")
        tree = config.model_dump(mode="json")
        with ExitStack() as ends:
            log = RunLog(config.folder, make_loggers(config.loggers, config.folder, tree))
            ends.callback(log.close)
            (config.folder / "config.yaml").write_text(settings.dump(config))
            view.message("starting Ray, vLLM and DeepSpeed")
            joined = ends.enter_context(connect(config))
            run = start_run(opening, inputs, log, view, joined, ends)
            if stopping is not None:
                ends.enter_context(stopping.installed())
            trainer = cls(run, callbacks=callbacks, stopping=stopping, command=command)
            trainer.history.start(base)
            trainer._ends = ends.pop_all()
            return trainer

    @property
    def config(self) -> Config:
        return self.run.config

    @property
    def step_done(self) -> int:
        """The last step that is done; 0 before the first."""
        return self.run.progress.step

    def train(self) -> dict[str, Any]:
        """Trains to the last step, and returns the summary, which is also in `folder/summary.json`."""
        for _ in self:
            pass
        assert self.summary is not None
        return self.summary

    def __iter__(self) -> Iterator[StepResult]:
        """Trains step by step, from the step after `step_done` to the last; then writes summary and report."""
        try:
            while (result := self._next()) is not None:
                for callback in self._callbacks:
                    callback.on_step(self, result)
                yield result
        except (StopRequested, RewardError):
            # Raised where the last step is whole, so it is saved.
            with self._stopping.held():
                self.history.commit_last()
            raise
        self._finish()

    def evaluate(self) -> dict[str, float]:
        """Accuracy on the held-out prompts with the present weights, as `val-core/...` metrics. They are logged.

        Raises:
            ConfigError: the configuration names no held-out prompts.
        """
        metrics = evaluate(self.run)
        for callback in self._callbacks:
            callback.on_evaluation(self, self.step_done, metrics)
        return metrics

    def save(self) -> None:
        """Writes a checkpoint of the present step, and waits until it is there.

        Raises:
            CheckpointError: it could not be written.
        """
        self.history.commit_last()

    def close(self) -> None:
        """Ends the actors, and Ray if it was started for this run."""
        self._ends.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Saves a run that is left before its end without an error, then closes it."""
        try:
            if kind is None and self.summary is None:
                self.save()
        finally:
            self.close()

    # One step.

    def _next(self) -> StepResult | None:
        """The next step, with evaluations and checkpoints where they are due; None after the last. If the learner is
        lost, the run goes back to a checkpoint and goes on from there."""
        while True:
            try:
                self._evaluate_and_save()
                if self.step_done >= self.config.loop.steps:
                    self.history.commit_last()
                    return None
                metrics = self.step(self.step_done + 1)
                return StepResult(self.step_done, metrics | self._evaluate_and_save())
            except LearnerLostError as error:
                with self._stopping.held():
                    self._ahead = None
                    self.history.rewind(error)

    def _evaluate_and_save(self) -> dict[str, float]:
        metrics = self.evaluate() if evaluation_is_due(self.run) else {}
        self.history.save_if_due()
        return metrics

    def step(self, step: int) -> dict[str, float]:
        """One training step, and its metrics. With `loop.max_staleness` the next batch is rolled out while the learner
        trains on this one.

        A step can be dropped until its observation is in the log; from then on it counts, and is finished.
        """
        self.run.clock.begin(step)
        now, self._ahead = self._ahead or self._prepare(step), None
        learning = None
        try:
            with self._stopping.held():
                self.phases.observe(step, now.batch)
                learning = self.phases.begin_to_learn(step, now.batch)
            if self.config.loop.max_staleness > 0 and step < self.config.loop.steps:
                self._ahead = self._prepare(step + 1)
        except BaseException:
            if learning is not None:
                # Without publishing: engines may be busy with a batch that is dropped.
                self._complete(now, learning, publish=False)
            raise
        return self._complete(now, learning)

    def _prepare(self, step: int) -> Prepared:
        """What engines and verifiers do for a step. Commits the checkpoint that was written meanwhile."""
        probe = self.phases.probe(step)
        batch = self.phases.gather(step)
        with self._stopping.held():
            self.history.commit()
        return Prepared(step, batch, probe)

    def _complete(
        self, now: Prepared, learning: Learning, publish: bool = True
    ) -> dict[str, float]:
        """Waits for the learner, gives the engines the new weights, and records the step."""
        with self._stopping.held():
            metrics = self.phases.learn(learning)
            if publish and learning.training is not None:
                with self.run.clock.timed("publish"):
                    self.run.rollouts.publish(self.run.learner)
            return self._record(now, learning, metrics)

    def _record(
        self, now: Prepared, learning: Learning, metrics: dict[str, float]
    ) -> dict[str, float]:
        """Counts what the step cost, and logs its metrics."""
        run, (step, batch, probe) = self.run, now
        trained = sum(len(group.advantages) for group in learning.groups)
        run.progress.add(step, batch, probe, trained, run.clock.seconds)
        if probe is not None:
            run.log.probe(step, run.described(probe.found))
            metrics = {**metrics, "probe/partial_solve_ratio": probe.partial}
        if batch.errors:
            run.view.message(f"step {step}: {len(batch.errors)} groups dropped; {batch.errors[0]}")
        times = run.clock.metrics()
        everything = {
            "training/step": float(step),
            **batch.metrics(),
            "batch/useful_groups": float(len(learning.groups)),
            "rollout/wasted_share": 1.0 - trained / batch.rollouts,
            **metrics,
            **run.metrics(),
            **times,
            "perf/throughput": batch.tokens / times["timing_s/step"],
        }
        run.log.step(step, everything)
        run.log.samples(_samples(step, batch, run.pool))
        run.view.step(step, everything)
        return everything

    def _finish(self) -> None:
        """Writes summary and report."""
        run = self.run
        self.summary = summary_of(run, self._command)
        run.log.summary(self.summary)
        report = build_report(run.config.folder)
        run.view.finish(f"{summarize(self.summary)}\nReport: {report}")


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
