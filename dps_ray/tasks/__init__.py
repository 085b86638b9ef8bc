"""The built-in tasks and the default reward function.

Each task is a module with a verifier; some also have a problem generator. `compute_score` has the signature of verl's
reward functions and chooses the verifier by a row's `data_source`.
"""

import re
from collections.abc import Callable
from typing import Any

from dps_ray.errors import RewardError
from dps_ray.tasks import arithmetic, countdown, geometry, mathematics, sums

Verifier = Callable[[str, Any], dict[str, float]]

VERIFIERS: dict[str, Verifier] = {
    "arithmetic": arithmetic.score,
    "countdown": countdown.score,
    "countdown4": countdown.score,
    "geometry": geometry.score,
    "math": mathematics.score,
    "sums": sums.score,
}

# Names of published data sets, such as `HuggingFaceH4/MATH-500`, `aime24`, `minerva_math`, `hiyouga/geometry3k`.
_FAMILIES = {
    re.compile(r"(math|aime|amc|minerva|olympiad(_?bench)?|numina)(?![a-z]).*"): "math",
    re.compile(r"(geometry|geo)(3k)?(?![a-z]).*"): "geometry",
}


def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None
) -> dict[str, float]:
    """Scores one response: `score` is the reward; `acc` is 1.0 if the answer is right, otherwise 0.0.

    Returns in bounded time for any text, and may be called from any thread.

    Raises:
        RewardError: `data_source` has no built-in verifier, or the ground truth is invalid.
        ResponseError: the verifier reached its limits, so it is unknown whether the answer is right.
    """
    return VERIFIERS[_task(data_source)](solution_str, ground_truth)


def find(data_source: str) -> str | None:
    """The key in `VERIFIERS` of a data source's verifier; None if it has no built-in verifier."""
    if data_source in VERIFIERS:
        return data_source
    name = data_source.rpartition("/")[2].lower()
    return next((task for family, task in _FAMILIES.items() if family.fullmatch(name)), None)


def _task(data_source: str) -> str:
    found = find(data_source)
    if found is None:
        raise RewardError(
            f"no built-in reward for data_source {data_source!r} (there are: "
            f"{', '.join(sorted(VERIFIERS))}); name your own reward function, as "
            f"'package.module:function' or 'path/to/file.py:function'"
        )
    return found
