"""Accuracy on held-out prompts, with an interval."""

from collections import defaultdict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from actors.rollout import Rollouts, Sampling
from actors.verifier import Verifiers
from dps_ray.groups import ScoredGroup
from pipelines.pool import PromptPool
from pipelines.roll_out import roll_out

_CHUNK = 512  # prompts generated at a time, for progress


def evaluate(
    pool: PromptPool,
    ids: NDArray[np.int64],
    sampling: Sampling,
    rollouts: Rollouts,
    verifiers: Verifiers,
    progress: Callable[[int, int, str], None],
) -> dict[str, float]:
    """Mean accuracy over N = `sampling.responses` responses to each prompt.

    Returns:
        `val-core/<source>/acc/mean@N` for each data source and for `all` prompts, and
        `val-aux/all/acc/low@N`, `high@N`: a 95% bootstrap interval over prompts; and the mean score,
        `val-aux/all/reward/mean@N`. A prompt whose rollout or reward function failed is left out, and
        counted in `val-aux/failed`.
    """
    rewards: list[float] = []
    by_source: dict[str, list[float]] = defaultdict(list)
    failed = 0
    for start in range(0, len(ids), _CHUNK):
        chunk = ids[start : start + _CHUNK]
        answers = roll_out(pool, chunk, sampling, rollouts, verifiers)
        for prompt, scored in zip(pool.prompts(chunk), answers, strict=True):
            if isinstance(scored, ScoredGroup):
                by_source[prompt.data_source].append(float(scored.accuracies.mean()))
                rewards.append(float(scored.scores.mean()))
            else:
                failed += 1
        progress(start + len(chunk), len(ids), "test prompts")
    n = sampling.responses
    metrics = {f"val-core/{s}/acc/mean@{n}": float(np.mean(a)) for s, a in by_source.items()}
    everything = np.concatenate([np.empty(0), *by_source.values()])
    if len(everything):
        low, high = bootstrap_interval(everything)
        metrics[f"val-core/all/acc/mean@{n}"] = float(everything.mean())
        metrics[f"val-aux/all/acc/low@{n}"] = low
        metrics[f"val-aux/all/acc/high@{n}"] = high
        metrics[f"val-aux/all/reward/mean@{n}"] = float(np.mean(rewards))
    return {**metrics, "val-aux/failed": float(failed)}


def bootstrap_interval(
    values: NDArray[np.float64], level: float = 0.95, resamples: int = 2000
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of independent values (n,); always the same."""
    rng = np.random.default_rng(0)
    means = rng.choice(values, size=(resamples, len(values))).mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
