"""The training loop: dynamics-predictive sampling around GRPO.

    select ──> generate ──> score ──> observe ──> train ──> publish ──> log ──> checkpoint
      ▲ coordinator  engines   verifiers    │beliefs   learner    engines
      └─────────────────────────────────────┘

`Trainer.run` is the algorithm; the methods below it say what each phase consumes and produces.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from actors.coordinator import Coordinator
from actors.learner import Learner
from actors.rollout import Rollouts, Sampling
from actors.verifier import Verifiers
from dps_ray import PARTIAL
from dps_ray.config import Config
from dps_ray.errors import RewardError
from dps_ray.groups import ScoredGroup
from pipelines import checkpoint
from pipelines.batch import Batch, to_trajectories
from pipelines.evaluation import evaluate
from pipelines.pool import PromptPool
from pipelines.progress import Progress
from pipelines.run_log import RunLog, held_out_accuracy
from pipelines.view import View

_SAMPLES_A_STEP = 2  # responses kept for the report


class Trainer:
    """Everything a run is made of, started and connected; see `pipelines.grpo_dps.assemble`."""

    def __init__(
        self,
        config: Config,
        *,
        pool: PromptPool,
        test: PromptPool | None,
        coordinator: Coordinator,
        rollouts: Rollouts,
        verifiers: Verifiers,
        learner: Learner,
        log: RunLog,
        view: View,
    ):
        self.config = config
        self.pool = pool
        self.test = test
        self.coordinator = coordinator
        self.rollouts = rollouts
        self.verifiers = verifiers
        self.learner = learner
        self.log = log
        self.view = view
        self.progress = Progress()
        self._times: dict[str, float] = {}

    def run(self) -> None:
        """Train from the step after `progress.step` to the last."""
        loop = self.config.loop
        if self.progress.step == 0:
            self.measure_accuracy(step=0)
        for step in range(self.progress.step + 1, loop.steps + 1):
            self._times = {}
            with self.timed("step"):
                batch = self.gather(step)
                with self.timed("observe"):
                    self.coordinator.observe(batch.observation())
                metrics = self.learn(batch, step)
            uniform = self.probe(step)
            self.record(step, batch, {**metrics, **uniform})
            last = step == loop.steps
            if last or _due(step, self.config.eval.every):
                self.measure_accuracy(step)
            if last or _due(step, self.config.checkpoint.every):
                self.save()

    def gather(self, step: int) -> Batch:
        """Select prompts, roll them out and score the responses.

        With filter_groups that is repeated with other prompts until the batch has B partial groups
        (Dynamic Sampling), the pool is used up, or max_gen_batches is reached.
        """
        loop, k = self.config.loop, self.config.rollout.group_size
        batch = Batch()
        for _ in range(loop.max_gen_batches if loop.filter_groups else 1):
            size = min(loop.batch_size, len(self.pool.ids) - len(batch.tried))
            with self.timed("select"):
                selection = self.coordinator.select(size, batch.tried if batch.rollouts else None)
            answers = self.roll_out(selection.ids, self._sampling(f"step-{step}"))
            batch.add(selection, answers, k)
            if batch.partial >= loop.batch_size or len(batch.tried) == len(self.pool.ids):
                break
        if not batch.scored:
            raise RewardError(
                f"step {step}: the rewards of all {len(batch.errors)} groups failed; {batch.errors[0]}"
            )
        return batch

    def roll_out(self, ids: np.ndarray, sampling: Sampling) -> list[ScoredGroup | RewardError]:
        """A scored group, or what was wrong with its rewards, for each prompt."""
        with self.timed("select"):
            prompts = self.pool.prompts(ids)
            requests = self.pool.requests(prompts)
        with self.timed("generate"):
            groups = self.rollouts.generate(requests, sampling)
        with self.timed("score"):
            return self.verifiers.score(prompts, groups)

    def learn(self, batch: Batch, step: int) -> dict[str, float]:
        """Train on the groups that carry gradient and give the engines the new weights."""
        loop = self.config.loop
        useful = batch.useful(only_partial=loop.filter_groups, limit=loop.batch_size)
        self.progress.trained_rollouts += sum(len(g.group.responses) for g in useful)
        if not useful:
            self.view.message(f"step {step}: no group carries gradient; the weights stay")
            return {"batch/useful_groups": 0.0}
        with self.timed("train"):
            trajectories = to_trajectories(useful, self.config.objective)
            metrics = self.learner.train(trajectories, step)
        with self.timed("publish"):
            self.publish()
        return {**metrics, "batch/useful_groups": float(len(useful))}

    def publish(self) -> None:
        self.learner.publish()
        self.rollouts.check_version(self.learner.version)

    def probe(self, step: int) -> dict[str, float]:
        """Roll out a uniform sample of the pool: what uniform selection would have found now.

        It is charged to the run. Neither beliefs nor learner see it, so that it stays a measurement.
        """
        settings = self.config.probe
        if settings.every == 0 or not (step == 1 or _due(step, settings.every)):
            return {}
        rng = np.random.default_rng([self.config.seed, step])
        size = min(settings.prompts, len(self.pool.ids))
        with self.timed("probe"):
            ids = rng.choice(self.pool.ids, size, replace=False)
            prompts = self.pool.prompts(ids)
            groups = self.rollouts.generate(
                self.pool.requests(prompts), self._sampling(f"probe-{step}")
            )
            answers = [
                a for a in self.verifiers.score(prompts, groups) if isinstance(a, ScoredGroup)
            ]
        self._charge(size, [r for g in groups for r in g.responses])
        share = float(np.mean([a.state == PARTIAL for a in answers])) if answers else float("nan")
        self.progress.uniform.append(share)
        return {"probe/partial_solve_ratio": share}

    def measure_accuracy(self, step: int) -> None:
        """Accuracy on the held-out prompts, logged and kept for the summary."""
        if self.test is None:
            return
        settings = self.config.eval
        sampling = Sampling(
            responses=settings.samples,
            temperature=settings.temperature,
            top_p=settings.top_p,
            max_tokens=self.config.rollout.max_response_length,
            seed=f"{self.config.seed}/eval",
        )
        began = time.monotonic()
        self.view.phase("eval")
        metrics = evaluate(
            self.test,
            self.test.ids[: settings.max_prompts],
            sampling,
            self.rollouts,
            self.verifiers,
            self.view.progress,
        )
        metrics["timing_s/eval"] = time.monotonic() - began
        self.progress.seconds += metrics["timing_s/eval"]
        accuracy = held_out_accuracy(metrics)
        if accuracy is not None:
            self.progress.accuracy.append(accuracy._asdict())
        self.log.step(step, metrics)
        self.view.step(step, metrics)

    def record(self, step: int, batch: Batch, metrics: dict[str, float]) -> None:
        """Count what the step cost and log what it showed."""
        progress = self.progress
        found = batch.metrics()
        progress.step = step
        progress.seconds += self._times["step"] + self._times.get("probe", 0.0)
        progress.rollouts += batch.rollouts
        progress.tokens += batch.tokens
        progress.training_rollouts += batch.rollouts
        progress.distinct_prompts += batch.distinct
        progress.effective.append(found["tasksample/partial_solve_ratio"])
        if batch.errors:
            self.view.message(f"step {step}: {len(batch.errors)} groups skipped; {batch.errors[0]}")
        everything = {
            "training/step": float(step),
            **found,
            **metrics,
            **self.coordinator.metrics,
            **{f"timing_s/{phase}": seconds for phase, seconds in self._times.items()},
            "coverage/distinct_prompts": float(progress.distinct_prompts),
            "perf/total_rollouts": float(progress.rollouts),
            "perf/total_tokens": float(progress.tokens),
            "perf/throughput": batch.tokens / self._times["step"],
        }
        self.log.step(step, everything)
        self.log.samples(_samples(step, batch, self.pool))
        self.view.step(step, everything)

    def save(self) -> Path:
        """A checkpoint of this step."""
        began = time.monotonic()
        self.view.phase("checkpoint")

        def fill(folder: Path) -> None:
            self.learner.save(folder)
            self.coordinator.save(folder / "beliefs")
            self.progress.save(folder / "progress.json")

        path = checkpoint.write(self.config.folder, self.progress.step, self.config, fill)
        self.log.step(self.progress.step, {"timing_s/checkpoint": time.monotonic() - began})
        return path

    def restore(self, path: Path) -> None:
        """Continue as if the run had not stopped after the checkpoint's step."""
        self.progress = Progress.load(path / "progress.json")
        self.learner.load(path, version=self.progress.step)
        self.coordinator.load(path / "beliefs")
        self.log.resume_at(self.progress.step)
        self.view.resume_at(self.progress.step)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time spent to `timing_s/<phase>` of this step."""
        if phase != "step":
            self.view.phase(phase)
        began = time.monotonic()
        yield
        self._times[phase] = self._times.get(phase, 0.0) + time.monotonic() - began

    def _sampling(self, purpose: str) -> Sampling:
        rollout = self.config.rollout
        return Sampling(
            responses=rollout.group_size,
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            max_tokens=rollout.max_response_length,
            seed=f"{self.config.seed}/{purpose}",
        )

    def _charge(self, prompts: int, responses: list[Any]) -> None:
        self.progress.rollouts += prompts * self.config.rollout.group_size
        self.progress.tokens += sum(len(response.tokens) for response in responses)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


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
