"""The closing account of a run, as `summary.json` holds it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dps_ray.config import Config
from dps_ray.errors import DPSError
from pipelines.monitoring.accuracy_curve import spending_of
from pipelines.monitoring.metrics import ROLLOUTS_PER_MIXED_GROUP
from pipelines.monitoring.others import others_in, savings
from pipelines.monitoring.timeline import read_timeline
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
        "rollouts_per_mixed_group": progress.metrics().get(ROLLOUTS_PER_MIXED_GROUP),
        "saved": _saved(run),
        "compared": compared(config, run.view.message),
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


def compared(config: Config, tell: Callable[[str], None]) -> dict[str, Any] | None:
    """What was saved against the runs of `report.compared_with`; None without any, or without an accuracy."""
    folder = config.report.compared_with
    if folder is None or (ours := spending_of(config.folder)[-1]).accuracy is None:
        return None
    try:
        others = others_in(Path(folder))
    except (DPSError, OSError) as error:  # they were there when the run began
        tell(f"nothing is compared: {error}")
        return None
    return {"folder": folder, "methods": savings(ours, others, _price_per_engine_hour(config))}


def _price_per_engine_hour(config: Config) -> float:
    """0 if no price is known."""
    return (config.report.price_per_gpu_hour or 0.0) * config.resources.rollout.gpus_per_engine


def _saved(run: Run) -> dict[str, Any] | None:
    """What uniform sampling, alone or with Dynamic Sampling's refill, would have cost more; see `saved`."""
    config, progress = run.config, run.progress
    if config.method == "uniform" and config.rollout.rounds is None:
        return None
    seconds = sum(
        span.ended - span.began
        for span in read_timeline(config.folder)
        if span.pool.startswith("rollout/") and span.name == "generate"
    )
    return saved(
        mixed=progress.mixed_groups,
        rollouts=progress.mixed_rollouts,
        tokens_per_rollout=progress.tokens / max(progress.rollouts, 1),
        engine_seconds=seconds,
        uniform_ratio=_mean(progress.uniform),
        group_size=config.rollout.group_size,
        price_per_engine_hour=_price_per_engine_hour(config),
    )


def saved(
    *,
    mixed: int,
    rollouts: int,
    tokens_per_rollout: float,
    engine_seconds: float,
    uniform_ratio: float,
    group_size: int,
    price_per_engine_hour: float,
) -> dict[str, Any] | None:
    """What uniform sampling in full groups would have cost more for as many partial groups.

    Of its groups `uniform_ratio` are partial, as the probes found, so each costs group_size / uniform_ratio rollouts.
    Dynamic Sampling pays the same, since its refills are drawn uniformly. Tokens, engine time and money are in
    proportion to rollouts. That accuracy is equal for equal numbers of partial groups is an assumption.

    Returns:
        Differences, negative where uniform sampling would have been cheaper; None if nothing is known.
    """
    if not mixed or not uniform_ratio > 0:
        return None
    uniform = group_size / uniform_ratio
    more = mixed * uniform - rollouts
    seconds = engine_seconds * more / rollouts
    return {
        "uniform_rollouts_per_mixed_group": uniform,
        "rollouts": round(more),
        "tokens": round(more * tokens_per_rollout),
        "engine_seconds": seconds,
        "money": seconds / 3600 * price_per_engine_hour if price_per_engine_hour else None,
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
