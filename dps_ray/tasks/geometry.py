"""Geometry: problems with a figure whose answer is a length, an angle or an area.

A response thinks inside `<think> </think>` and then gives its answer in a `\\boxed{}`. Scores follow verl's recipe for
Geometry3k: 0.9 for a right answer plus 0.1 for the format. Answers are compared as in `dps_ray.tasks.mathematics`,
except that numbers may be rounded (`dps_ray.tasks.equality.rounded`).
"""

import re
from typing import Any

from dps_ray.tasks.final_answer import final_answer
from dps_ray.tasks.mathematics import is_right, references

FORMAT_SCORE = 0.1

# `x = 5`, `m\\angle ABC = 40^\\circ`: the name before the equals sign is not part of the answer.
_NAMED = re.compile(r"[^=<>]{1,60}=")


def score(response: str, truth: Any) -> dict[str, float]:
    """Scores the final answer: `acc` is 1 if it is right; `score` is 0.9 * acc, plus 0.1 for the format.

    Args:
        truth: the reference, as for `dps_ray.tasks.mathematics.score`.

    Raises:
        RewardError: `truth` is not a valid reference.
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
    """Whether the response begins with `<think>`, closes that tag, and has a box after it."""
    thoughts = response.find("</think>")
    box = response.rfind("\\boxed{")
    return response.startswith("<think>") and 0 < thoughts < box < response.rfind("}")
