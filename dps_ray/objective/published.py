"""The published settings of each objective, which `objective.name` chooses.

A name gives the settings below their defaults. What is not listed has the default of `ObjectiveSettings`, which are those
of GRPO with the changes of DAPO. A setting that the user gives wins. ``docs/objectives.md`` compares each objective with
its publication.
"""

from collections.abc import Mapping
from typing import Any, Literal

ObjectiveName = Literal[
    "grpo",
    "dr_grpo",
    "rloo",
    "reinforce_plus_plus",
    "reinforce_plus_plus_baseline",
    "gspo",
    "cispo",
    "ppo",
]

# PPO, arXiv 1707.06347, section 6.1: the same clip on both sides, and no dual clip.
_PPO_CLIP = {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": None}

PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    # GRPO, arXiv 2402.03300, eq. 3, with DAPO's clip-higher and mean over tokens, arXiv 2503.14476, eq. 10 and 12. Dual
    # clip: verl's, at the value of DPS's published code.
    "grpo": {},
    # Dr. GRPO, arXiv 2503.20783. The clip is that of its code (sail-sg/understand-r1-zero).
    "dr_grpo": {**_PPO_CLIP, "scale": "none", "aggregation": "sequence-sum"},
    # RLOO, arXiv 2402.14740: the log-probability of a response is the sum over its tokens. The clip is
    # TRL's and OpenRLHF's; the paper makes one update for each batch, where there is nothing to clip.
    "rloo": {
        **_PPO_CLIP,
        "baseline": "leave_one_out",
        "scale": "none",
        "aggregation": "sequence-sum",
    },
    # REINFORCE++, arXiv 2501.03262, and its form with the group's mean as baseline.
    "reinforce_plus_plus": {
        **_PPO_CLIP,
        "baseline": "batch",
        "scale": "batch",
        "kl_estimator": "k2",
    },
    "reinforce_plus_plus_baseline": {**_PPO_CLIP, "scale": "batch", "kl_estimator": "k2"},
    # GSPO, arXiv 2507.18071, eq. 5 and 7; clip: section 5.1.
    "gspo": {
        "loss": "sequence_ratio",
        "clip_low": 3e-4,
        "clip_high": 4e-4,
        "dual_clip": None,
        "aggregation": "sequence-mean",
    },
    # CISPO, MiniMax-M1, arXiv 2506.13585, eq. 4 and 5, which has no lower clip and does not say the upper one. Weights of up
    # to 5 are ScaleRL's (arXiv 2510.13786), and what TRL recommends (`epsilon_high=5.0`).
    "cispo": {"loss": "clipped_weight", "clip_low": 1.0, "clip_high": 4.0, "dual_clip": None},
    "ppo": {**_PPO_CLIP, "baseline": "critic", "scale": "batch"},
}
