"""What a batch teaches the simulated learner under objectives other than GRPO.

A response with advantage A adds A times its score function to the gradient. The score function is (r - p) times the gradient
of the prompt's log-odds, r being 1 if the response is right and p the prompt's solve rate, and noise that has nothing to do with r.
So of a group

    signal = 4 mean of A (r - p)        how far it moves the log-odds
    noise  = 4 mean of A^2              the variance of the rest

both relative to a prompt that is solved half of the time and compared with that. The baselines are

    rloo                  the group's mean: A = r - mean (the others' mean is the same but for a factor)
    reinforce_plus_plus   the batch's mean
    ppo                   a critic, which knows the success rate of each topic and nothing of single prompts

GRPO is as the learner was fitted: signal and noise are both the mean size of its advantages.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Objective = Literal["grpo", "rloo", "reinforce_plus_plus", "ppo"]


class Lesson(NamedTuple):
    """What each group teaches: float64 (n,) each. A group with no noise has no advantages, and does not train."""

    signal: Floats
    noise: Floats


def lesson(
    objective: Objective,
    right: NDArray[np.int64],
    responses: NDArray[np.int64],
    rates: Floats,
    critic: Floats,
) -> Lesson:
    """Returns what the groups of a batch teach.

    Args:
        right, responses: (n,), of each group.
        rates: (n,), true solve rates of their prompts.
        critic: (n,), the solve rates that a critic expects.
    """
    share = right / responses
    if objective == "grpo":
        size = 2 * np.sqrt(share * (1 - share))
        return Lesson(size, size)
    if objective == "rloo":
        baseline = share
    elif objective == "reinforce_plus_plus":
        baseline = np.full(len(share), right.sum() / max(responses.sum(), 1))
    else:
        baseline = critic
    of_right, of_wrong = 1 - baseline, -baseline
    return Lesson(
        4 * (share * of_right * (1 - rates) - (1 - share) * of_wrong * rates),
        4 * (share * of_right**2 + (1 - share) * of_wrong**2),
    )
