"""The built-in tasks, and the reward function that is used when none is named.

Each task is a module with a generator of problems and a verifier; `compute_score` picks the
verifier by a row's `data_source`, with the signature of verl's reward functions.
"""

from collections.abc import Callable
from typing import Any

from dps_ray.errors import RewardError
from dps_ray.tasks import arithmetic, countdown, sums

VERIFIERS: dict[str, Callable[[str, Any], dict[str, float]]] = {
    "arithmetic": arithmetic.score,
    "countdown": countdown.score,
    "sums": sums.score,
}


def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None
) -> dict[str, float]:
    """Scores one response: `score` is the reward, `acc` is 1.0 when the answer is right, else 0.0.

    Raises RewardError for a `data_source` that has no built-in verifier.
    """
    try:
        verifier = VERIFIERS[data_source]
    except KeyError:
        raise RewardError(
            f"no built-in reward for data_source {data_source!r} (there are: "
            f"{', '.join(sorted(VERIFIERS))}); name your own reward function, as "
            f"'package.module:function' or 'path/to/file.py:function'"
        ) from None
    return verifier(solution_str, ground_truth)
