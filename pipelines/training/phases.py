"""The phases of a training step: what each consumes and produces.

    probe, gather ──Batch──> observe ──> begin_to_learn ──Learning──> learn ──> metrics

A phase replaces the actors that are lost in it. Only a lost learner is the caller's to replace.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from actors.learner import Training
from actors.requests import Sampling
from dps_ray import Selection
from dps_ray.errors import DataError, DPSError, EngineError, RewardError, StaleError
from dps_ray.failpoints import failpoint
from dps_ray.groups import ScoredGroup
from pipelines.rollout.batch import Batch, observation_of, to_trajectories
from pipelines.rollout.pool import Drawn
from pipelines.rollout.probe import Probe, drawn, probe_of
from pipelines.rollout.roll_out import roll_out
from pipelines.training.history import is_due
from pipelines.training.run import Run


class Learning(NamedTuple):
    """What the learner was given."""

    staleness: np.ndarray
    """(groups scored,): weight versions between sampling and training."""
    training: Training | None
    """None when no group carries gradient."""


class Phases:
    """The phases of one run's steps."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._furthest = 0  # the last step that a learner was trained on, lost steps included

    def probe(self, step: int) -> Probe | None:
        """Rolls out a uniform sample of the pool, when that is due, with the weights of the step's own batch.

        The cost is charged to the run. Neither beliefs nor learner see the sample, so it stays a measurement.
        """
        run, settings = self._run, self._run.config.probe
        if settings.every == 0 or not (step == 1 or is_due(step, settings.every)):
            return None
        with run.clock.only("probe"):
            ids = drawn(run.pool.ids, settings.prompts, seed=run.config.seed, step=step)
            found, refused = run.pool.draw(np.setdiff1d(ids, run.set_aside()))
            self._set_aside(step, refused)
            answers = self._roll_out("probe", step, found)
        return probe_of(answers, run.config.rollout.group_size)

    def gather(self, step: int) -> Batch:
        """Selects prompts, rolls them out and scores the responses.

        With `loop.filter_groups` this is repeated with other prompts until the batch has B partial groups (Dynamic
        Sampling), the pool is used up, or `loop.max_gen_batches` is reached.

        Raises:
            RewardError, EngineError: every group failed.
            DataError: no prompt of the pool can be used.
        """
        run, loop = self._run, self._run.config.loop
        batch = Batch()
        for _ in range(loop.max_gen_batches if loop.filter_groups else 1):
            with run.clock.timed("select"):
                selection, found = self._draw(step, batch.tried)
            if not found.requests:
                break
            run.pool.expect(run.coordinator.likely_next())
            answers = self._roll_out("generate", step, found)
            batch.add(selection, answers, run.config.rollout.group_size)
            if batch.partial >= loop.batch_size or self._left(batch.tried) == 0:
                break
        if not batch.scored and not batch.errors:
            raise DataError(
                f"none of the {len(run.pool.ids)} prompts of data.train={run.config.data.train} can be used: all are "
                f"longer than data.max_prompt_length={run.config.data.max_prompt_length}, or set aside"
            )
        if not batch.scored:
            kind = RewardError if isinstance(batch.errors[0], RewardError) else EngineError
            raise kind(f"step {step}: all {len(batch.errors)} groups failed; {batch.errors[0]}")
        return batch

    def _draw(self, step: int, tried: np.ndarray) -> tuple[Selection, Drawn]:
        """Selects a batch of prompts that are not in `tried` and can be rolled out, or as many as are left. Those that
        cannot be rolled out are set aside, and others take their places."""
        run, held = self._run, Drawn([], [])
        while True:
            run.coordinator.excluded = run.set_aside()
            size = min(run.config.loop.batch_size, self._left(tried))
            selection = run.coordinator.select(size, tried)
            found, refused = run.pool.draw(np.setdiff1d(selection.ids, held.ids))
            held = held.joined(found)
            if not refused:
                return selection, held.take(selection.ids)
            self._set_aside(step, refused)

    def _left(self, tried: np.ndarray) -> int:
        """How many prompts of the pool can still be selected in this step."""
        population = self._run.coordinator.population
        _, here = population.find(np.union1d(tried, self._run.set_aside()))
        return len(population) - int(here.sum())

    def _set_aside(self, step: int, refused: Mapping[int, DPSError]) -> None:
        """Notes that these prompts are not to be drawn again."""
        if refused:
            self._run.refused |= refused
            first, *others = refused.values()
            more = f" (and {len(others)} more)" if others else ""
            self._run.view.message(f"step {step}: a prompt is set aside: {first}{more}")

    def observe(self, step: int, batch: Batch) -> None:
        """Updates the beliefs with every group that was scored, before any filter, and with the prompts set aside."""
        run = self._run
        observation = observation_of(batch.scored, run.config.selector.learns_from_rewards)
        refused = run.refused
        with run.clock.timed("observe"):
            failpoint("driver.observe.before", step=step)
            run.coordinator.excluded = run.set_aside()
            run.coordinator.observe(step, observation.with_unusable(list(refused)))
            failpoint("driver.observe.after", step=step)
        rows, _ = run.pool.table.find(observation.ids)
        run.record.observe(observation.ids, run.pool.table.contents[rows], list(refused))
        run.log.set_aside(step, refused)
        run.refused = {}

    def begin_to_learn(self, step: int, batch: Batch) -> Learning:
        """Has the learner train on the groups that carry gradient, if there are any.

        Raises:
            StaleError: a group was sampled with weights that are too old.
        """
        run, loop, groups = self._run, self._run.config.loop, self.useful(batch)
        staleness = batch.staleness(run.learner.version)
        if staleness.max() > loop.max_staleness:
            raise StaleError(
                f"step {step}: a group was sampled {staleness.max()} weight versions ago, and "
                f"loop.max_staleness={loop.max_staleness}"
            )
        if not groups:
            run.view.message(f"step {step}: no group carries gradient; the weights stay")
            return Learning(staleness, None)
        with run.clock.timed("train"):
            if run.config.resources.colocate:
                run.rollouts.sleep()
            trajectories = to_trajectories(groups, run.config.objective, loop.batch_size)
            return Learning(staleness, run.learner.train(trajectories, step))

    def learn(self, learning: Learning) -> dict[str, float]:
        """Waits for the learner, and returns its metrics.

        Raises:
            LearnerLostError: it died or did not answer.
        """
        run = self._run
        metrics = {
            "staleness/mean": float(learning.staleness.mean()),
            "staleness/max": float(learning.staleness.max()),
        }
        if learning.training is None:
            return metrics
        with run.clock.timed("train"):
            trained = learning.training.result()
        # A step that is done again is no success: a step that breaks the learner would be repeated for ever.
        if run.learner.version > self._furthest:
            self._furthest = run.learner.version
            run.restarts.record_success("learner", "the learner")
        run.clock.worked("learner", "train", run.learner.version, [(trained.began, trained.ended)])
        return {**metrics, **trained.metrics}

    def useful(self, batch: Batch) -> list[ScoredGroup]:
        """The groups to train on."""
        loop = self._run.config.loop
        return batch.useful(only_partial=loop.filter_groups, limit=loop.batch_size)

    def _roll_out(self, what: str, step: int, found: Drawn) -> list[ScoredGroup | DPSError]:
        """A scored group for each prompt, or the reason why there is none.

        Args:
            what: "generate" for a batch, or "probe".
        """
        run, rollout = self._run, self._run.config.rollout
        sampling = Sampling(
            responses=rollout.group_size,
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            max_tokens=rollout.max_response_length,
            seed=f"{run.config.seed}/{'step' if what == 'generate' else what}-{step}",
        )
        answers = roll_out(found, sampling, run.rollouts, run.verifiers, run.clock.timed)
        run.note_rollouts(what, step)
        return answers
