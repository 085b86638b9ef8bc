"""Settings of what makes a prompt unsolved, partial or solved: `states.*`."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dps_ray.setting_types import Settings


class StateSettings(Settings):
    """What makes a prompt unsolved, partial or solved. The last three are for rewards without right and wrong."""

    rule: Literal["right", "thresholds", "variation"] = "right"
    """`right`: solved when all responses have accuracy 1, unsolved when none has. Else by score:
    `thresholds`: solved when all are `high` or more, unsolved when all are `low` or less. `variation`:
    partial when their standard deviation is above `least_std`. Groups that are not partial by that are
    solved or unsolved by their mean, whether it lies nearer to `high` or to `low`."""
    low: float = 0.0
    """Score of a response that is no good at all: 0.1, say, where the right format alone earns that."""
    high: float = 1.0
    """Score of a response that leaves nothing to be learned."""
    least_std: Annotated[float, Field(gt=0.0)] = 0.05
    """Standard deviation (the sample's, as of advantages) up to which rewards are taken to be the same."""

    @model_validator(mode="after")
    def _low_is_below_high(self) -> Self:
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(
                f"states.low={self.low} and states.high={self.high}: low must be the smaller, and both finite"
            )
        return self
