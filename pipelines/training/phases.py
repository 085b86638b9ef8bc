"""The phases of a training step: what each consumes and produces.

    probe, gather ──Batch──> observe ──> begin_to_learn ──Learning──> learn ──> metrics

A phase replaces the actors that are lost in it. Only a lost learner is the caller's to replace.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from actors.learner import Training
from actors.requests import Sampling
from dps_ray import Selection
from dps_ray.beliefs.beta_rates import BetaRates
from dps_ray.config import LoopSettings
from dps_ray.errors import (
    DataError,
    DPSError,
    EngineError,
    EpisodeError,
    ModelError,
    RewardError,
    StaleError,
)
from dps_ray.failpoints import failpoint
from dps_ray.selection.rounds import RoundRule
from pipelines.rollout.batch import Batch, observation_of
from pipelines.rollout.pool import Drawn
from pipelines.rollout.probe import Probe, drawn, probe_of
from pipelines.rollout.roll_out import InRounds, RolledOut, roll_out
from pipelines.rollout.training_groups import TrainingGroup, to_trajectories, training_groups
from pipelines.training.history import is_due
from pipelines.training.run import Run


class Learning(NamedTuple):
    """What the learner was given."""

    staleness: np.ndarray
    """(groups scored,): weight versions between sampling and training."""
    training: Training | None
    """None when no group carries gradient."""
    groups: Sequence[TrainingGroup] = ()
    """The groups of this step that it trains on."""
    ages: Sequence[int] = ()
    """Steps since each group was new that it trains on again."""

    def metrics(self) -> dict[str, float]:
        """How old its groups are."""
        found = {
            "staleness/mean": float(self.staleness.mean()),
            "staleness/max": float(self.staleness.max()),
        }
        if self.ages:
            found |= {"replay/groups": len(self.ages), "replay/age_max": max(self.ages)}
        return found


def prompts_to_draw(loop: LoopSettings, partial: int, tried: int) -> int:
    """Returns how many prompts a step rolls out next; 0: its batch is complete.

    Args:
        partial: partial groups that the step has so far.
        tried: prompts that it has rolled out so far.
    """
    missing = loop.batch_size - partial
    if missing <= 0 or (tried and not loop.filter_groups):
        return 0
    most = loop.batch_size * (loop.max_gen_batches if loop.filter_groups else 1)
    size = missing if loop.refill == "missing" else loop.batch_size
    return max(min(size, most - tried), 0)


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
            answers, generated = self._roll_out("probe", step, found)
        return probe_of(answers, generated)

    def gather(self, step: int) -> Batch:
        """Selects prompts, rolls them out and scores the responses.

        With `loop.filter_groups` this is repeated with other prompts until the batch has B partial groups (Dynamic
        Sampling), the pool is used up, or `loop.max_gen_batches * B` prompts were tried.

        Raises:
            RewardError, EpisodeError, ModelError, EngineError: every group failed.
            DataError: every group failed, or no prompt of the pool can be used.
        """
        run, loop = self._run, self._run.config.loop
        batch = Batch()
        while wanted := prompts_to_draw(loop, batch.partial, len(batch.tried)):
            with run.clock.timed("select"):
                selection, found = self._draw(step, wanted, batch.tried)
            if not found.requests:
                break
            run.pool.expect(run.coordinator.likely_next())
            answers, generated = self._roll_out("generate", step, found, self._rounds(selection))
            batch.add(selection, answers, generated)
        if not batch.scored and not batch.errors:
            raise DataError(
                f"none of the {len(run.pool.ids)} prompts of data.train={run.config.data.train} can be used: all are "
                f"longer than data.max_prompt_length={run.config.data.max_prompt_length}, or set aside"
            )
        if not batch.scored:
            first = batch.errors[0]
            causes = (RewardError, EpisodeError, DataError, ModelError)
            kind = next((kind for kind in causes if isinstance(first, kind)), EngineError)
            raise kind(f"step {step}: all {len(batch.errors)} groups failed; {first}")
        return batch

    def _draw(self, step: int, wanted: int, tried: np.ndarray) -> tuple[Selection, Drawn]:
        """Selects `wanted` prompts that are not in `tried` and can be rolled out, or as many as are left. Those that cannot
        be rolled out are set aside, and others take their places."""
        run, held = self._run, Drawn([], [])
        while True:
            run.coordinator.excluded = run.set_aside()
            size = min(wanted, self._left(tried))
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
        """Has the learner train on the groups that carry gradient, if there are any, and on some of earlier steps.

        Raises:
            StaleError: a group was sampled with weights that are too old.
        """
        run, config, loop = self._run, self._run.config, self._run.config.loop
        staleness = batch.staleness(run.learner.version)
        if staleness.max() > loop.max_staleness:
            raise StaleError(
                f"step {step}: a group was sampled {staleness.max()} weight versions ago, and "
                f"loop.max_staleness={loop.max_staleness}"
            )
        groups = training_groups(batch.scored, batch.predicted, config)
        if not groups:
            run.view.message(f"step {step}: no group carries gradient; the weights stay")
            return Learning(staleness, None)
        with run.clock.timed("train"):
            if config.resources.colocate:
                run.rollouts.sleep()
            again = run.replay.take(step, len(groups))
            run.replay.add(step, groups)
            both = [*groups, *(kept.group for kept in again)]
            others = batch.sizes_without({group.prompt_id for group in groups})
            trajectories = to_trajectories(both, config.objective, loop.batch_size, others)
            training = run.learner.train(trajectories, step)
        return Learning(staleness, training, groups, [step - kept.step for kept in again])

    def learn(self, learning: Learning) -> dict[str, float]:
        """Waits for the learner, and returns its metrics.

        Raises:
            LearnerLostError: it died or did not answer.
        """
        run = self._run
        metrics = learning.metrics()
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

    def _rounds(self, selection: Selection) -> InRounds | None:
        """How the groups of a selection are generated in rounds, by what its method predicted; None: all at once."""
        rollout = self._run.config.rollout
        if rollout.rounds is None:
            return None
        rule = RoundRule(
            tuple(rollout.rounds) if isinstance(rollout.rounds, list) else "adaptive",
            rollout.stop,
            rollout.least_chance,
            rollout.group_size,
        )
        return InRounds(rule, BetaRates.of_predicted(selection.predicted, rollout.group_size))

    def _roll_out(
        self, what: str, step: int, found: Drawn, in_rounds: InRounds | None = None
    ) -> RolledOut:
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
        rolled_out = roll_out(
            found,
            sampling,
            run.rollouts,
            run.scorers,
            run.pool.encoder,
            run.clock.timed,
            in_rounds=in_rounds,
        )
        run.note_rollouts(what, step)
        return rolled_out
