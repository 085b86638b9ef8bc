"""A learner without engines: its configuration, and batches made by hand."""

import numpy as np

from dps_ray.config import settings
from dps_ray.objective.trajectories import concatenate


def config(folder, zero_stage=1, ranks=1, *more):
    return settings.load(
        None,
        [
            f"folder={folder}",
            "model.dtype=float32",
            "data.max_prompt_length=32",
            "rollout.max_response_length=32",
            "learner.lr=1e-3",
            "learner.warmup_steps=10",
            "learner.max_tokens_per_micro_batch=64",
            f"learner.zero_stage={zero_stage}",
            f"resources.learner.ranks={ranks}",
            "resources.learner.cpus=0.5",
            *more,
        ],
    )


def batch(seed: int, n: int = 8):
    """Hand-made responses of 6 to 13 tokens to prompts of 5."""
    rng = np.random.default_rng(seed)
    return concatenate(
        [
            (
                rng.integers(4, 20, 5).astype(np.int32),
                rng.integers(4, 20, 6 + i).astype(np.int32),
                np.full(6 + i, -3.0, np.float32),
                float((-1) ** i),
            )
            for i in range(n)
        ]
    )


def batch_with_scores(seed: int, n: int = 8):
    """The same for a learner with a critic: scores of 0 and 1 in place of advantages."""
    found = batch(seed, n)
    scores = np.random.default_rng([seed, n]).integers(0, 2, n).astype(np.float32)
    scores[:2] = 0, 1  # there is something to explain
    return found._replace(scores=scores, advantages=np.zeros(n, np.float32))
