"""Accuracy on the held-out prompts, measured with the engines of the run."""

import time
from itertools import chain

from dps_ray.errors import ConfigError
from pipelines.monitoring.held_out import held_out_accuracy
from pipelines.rollout.answers import answer, metrics_of, sampling_of
from pipelines.training.history import is_due
from pipelines.training.run import Run


def evaluation_is_due(run: Run) -> bool:
    """Whether the present step is to be evaluated, and was not yet."""
    step, settings = run.progress.step, run.config.eval
    due = step in (0, run.config.loop.steps) or is_due(step, settings.every)
    return run.test is not None and due and run.progress.evaluated != step


def evaluate(run: Run) -> dict[str, float]:
    """Answers the held-out prompts with the present weights, and returns the metrics, which are logged as well.

    Raises:
        ConfigError: the run has no held-out prompts.
    """
    if run.test is None:
        raise ConfigError("data.test is null, so there is nothing to evaluate; set it to prompts")
    step, settings = run.progress.step, run.config.eval
    sampling = sampling_of(settings, run.config.rollout.max_response_length, run.config.seed)
    began = time.monotonic()
    run.view.phase("eval")
    ids = run.test.ids[: settings.max_prompts]
    answers = answer(run.test, ids, sampling, run.rollouts, run.scorers, run.view.progress)
    metrics = metrics_of([each.without_texts() for each in chain.from_iterable(answers)])
    metrics["timing_s/eval"] = time.monotonic() - began
    run.note_rollouts("eval", step)
    run.progress.seconds += metrics["timing_s/eval"]
    accuracy = held_out_accuracy(metrics)
    if accuracy is not None and run.progress.evaluated != step:
        run.progress.accuracy.append({"step": step, **accuracy._asdict()})
    run.progress.evaluated = step
    run.log.step(step, metrics)
    run.view.step(step, metrics)
    return metrics
