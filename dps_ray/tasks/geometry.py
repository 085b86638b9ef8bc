"""Geometry: problems with a figure, whose answer is a length, an angle or an area.

A response thinks inside `<think> </think>` and gives its answer in a `\\boxed{}` after that. Scores follow verl's
recipe for Geometry3k: nine tenths for a right answer, one tenth for the format. The answer is compared as in
`dps_ray.tasks.mathematics`, and numbers may be rounded (`dps_ray.tasks.equality.rounded`).
"""

import re
from typing import Any

from dps_ray.tasks.final_answer import final_answer
from dps_ray.tasks.mathematics import is_right, references

FORMAT_SCORE = 0.1

# `x = 5`, `m\\angle ABC = 40^\\circ`: what is named before the equals sign is not asked for.
_NAMED = re.compile(r"[^=<>]{1,60}=")


def score(response: str, truth: Any) -> dict[str, float]:
    """Scores the last box: `acc` is 1 when it is right, `score` is 0.9 of that and 0.1 for the format.

    Args:
        truth: as `dps_ray.tasks.mathematics.score` takes it.

    Raises:
        RewardError: `truth` is no reference.
        ResponseError: the comparison reached its limits.
    """
    answer = final_answer(response)
    if answer is not None:
        answer = _NAMED.sub("", answer, count=1)
    accuracy = float(is_right(answer, references(truth), numeric=True))
    return {
        "score": (1 - FORMAT_SCORE) * accuracy + FORMAT_SCORE * well_formed(response),
        "acc": accuracy,
    }


def well_formed(response: str) -> bool:
    """Whether it begins with thoughts in tags, and a box comes after them."""
    thoughts = response.find("</think>")
    box = response.rfind("\\boxed{")
    return response.startswith("<think>") and 0 < thoughts < box < response.rfind("}")
