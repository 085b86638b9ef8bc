"""Accuracy on held-out prompts, as a run's metrics have it."""

from collections.abc import Mapping
from typing import NamedTuple

_HELD_OUT = "val-core/all/acc/mean@"


class Accuracy(NamedTuple):
    """Accuracy on held-out prompts, in [0, 1], and the ends of its 95% interval."""

    mean: float
    low: float
    high: float


def held_out_accuracy(metrics: Mapping[str, float]) -> Accuracy | None:
    """The accuracy over all held-out prompts, or None where a step was not evaluated.

    Reads `val-core/all/acc/mean@N` with `val-aux/all/acc/low@N` and `high@N`, N responses a prompt.
    """
    for name in metrics:
        if name.startswith(_HELD_OUT):
            n = name.removeprefix(_HELD_OUT)
            low, high = (metrics[f"val-aux/all/acc/{end}@{n}"] for end in ("low", "high"))
            return Accuracy(metrics[name], low, high)
    return None
