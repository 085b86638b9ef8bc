"""The closing account of a run, as `summary.json` holds it."""

from collections.abc import Sequence
from typing import Any

from dps_ray.config import Config
from pipelines.training.checkpoint import model_folder
from pipelines.training.run import Run


def summary_of(run: Run, command: str) -> dict[str, Any]:
    """What the run reached and what it cost, as plain values for JSON.

    Args:
        command: that started the run; empty if a program did.
    """
    config, progress = run.config, run.progress
    evaluations = progress.accuracy
    newest = run.checkpoints.newest
    return {
        "method": _method_name(config),
        "task": str(config.data.train),
        "seed": config.seed,
        "steps": progress.step,
        "accuracy_before": evaluations[0] if evaluations else None,
        "accuracy_after": evaluations[-1] if evaluations else None,
        "rollouts": progress.rollouts,
        "tokens": progress.tokens,
        "effective_ratio": _mean(progress.effective),
        "uniform_effective_ratio": _mean(progress.uniform) if progress.uniform else None,
        "gradient_share": progress.trained_rollouts / max(progress.training_rollouts, 1),
        "distinct_prompts": progress.distinct_prompts,
        "pool": len(run.pool.ids),
        "seconds": progress.seconds,
        "times_sampled": {str(t): n for t, n in run.coordinator.times_sampled().items()},
        "model": run.model,
        "checkpoint": model_folder(run.storage, newest) if newest else None,
        "best": _best(run) if config.checkpoint.keep_best else None,
        "command": command,
    }


def _best(run: Run) -> dict[str, Any] | None:
    """The evaluated step with the highest accuracy on held-out prompts, and the folder of its model."""
    start, best = run.progress.accuracy_at(0), run.checkpoints.best
    if best is not None and best.accuracy is not None and (start is None or best.accuracy > start):
        model = model_folder(run.storage, best)
        return {"step": best.step, "accuracy": best.accuracy, "model": model}
    return None if start is None else {"step": 0, "accuracy": start, "model": run.model}


def _method_name(config: Config) -> str:
    if config.loop.filter_groups and config.loop.max_gen_batches > 1:
        return "dynamic sampling" if config.method == "uniform" else f"{config.method} with refill"
    return config.method


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)
