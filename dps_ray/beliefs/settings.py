"""Settings of what makes a prompt unsolved, partial or solved: `states.*`."""

import math
from typing import Annotated, Literal

from dps_ray.plain_settings import Limits, PlainSettings


class StateSettings(PlainSettings):
    """What makes a prompt unsolved, partial or solved.

    `low`, `high` and `least_std` are for rewards without right and wrong.
    """

    rule: Literal["right", "thresholds", "variation"] = "right"
    """right: a group is solved when all responses have accuracy 1, unsolved when none has. thresholds: solved when all
    scores are `states.high` or more, unsolved when all are `states.low` or less. variation: partial when the standard
    deviation of the scores is above `states.least_std`. With the last two, a group that is not partial otherwise is
    solved if its mean score is nearer to `states.high` than to `states.low`, else unsolved."""
    low: float = 0.0
    """Score of a worthless response, such as 0.1 when the right format alone earns 0.1."""
    high: float = 1.0
    """Score of a perfect response."""
    least_std: Annotated[float, Limits(gt=0.0)] = 0.05
    """Largest sample standard deviation at which the rewards of a group count as equal."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(
                f"states.low={self.low} and states.high={self.high}: low must be the smaller, and both finite"
            )
