"""Every setting of a run and of an evaluation: its type, default and bounds, documented where it is declared.

A group of settings is declared beside what it configures: `data` in `dps_ray/prompts/settings.py`, `states` in
`dps_ray/beliefs/settings.py`, `selector` in the class of each method (`dps_ray/selection/methods/`), `objective` in
`dps_ray/objective/settings.py`, `environment` in `dps_ray/environments/settings.py`, `verifier` in `dps_ray/rewards/settings.py`, and the others in this folder.
`Config` puts them together. `dps_ray.config.settings.load` reads a YAML file and `a.b=c` overrides into a `Config`.
"""

from dps_ray.beliefs.settings import StateSettings
from dps_ray.config.config import Config
from dps_ray.config.learner import LearnerSettings, LoraSettings, ModelSettings
from dps_ray.config.resources import (
    BeliefPool,
    EngineResources,
    LearnerPool,
    ResourceSettings,
    RolloutPool,
    VerifierPool,
)
from dps_ray.config.rollout import EngineSettings, RolloutSettings
from dps_ray.config.run import (
    CheckpointSettings,
    EngineTimeouts,
    EvalSettings,
    LoopSettings,
    ProbeSettings,
    RecoverySettings,
    ReplaySettings,
    ReportSettings,
    TimeoutSettings,
)
from dps_ray.environments.settings import EnvironmentSettings
from dps_ray.objective.settings import ObjectiveSettings
from dps_ray.prompts.settings import DataSettings
from dps_ray.rewards.settings import VerifierSettings
from dps_ray.selection.settings import SelectorSettings
from dps_ray.setting_types import (
    HOME,
    TEMPLATE,
    Count,
    EachText,
    Natural,
    Seconds,
    Settings,
    Share,
)

__all__ = [
    "HOME",
    "TEMPLATE",
    "BeliefPool",
    "CheckpointSettings",
    "Config",
    "Count",
    "DataSettings",
    "EachText",
    "EngineResources",
    "EngineSettings",
    "EngineTimeouts",
    "EnvironmentSettings",
    "EvalSettings",
    "LearnerPool",
    "LearnerSettings",
    "LoopSettings",
    "LoraSettings",
    "ModelSettings",
    "Natural",
    "ObjectiveSettings",
    "ProbeSettings",
    "RecoverySettings",
    "ReplaySettings",
    "ReportSettings",
    "ResourceSettings",
    "RolloutPool",
    "RolloutSettings",
    "Seconds",
    "SelectorSettings",
    "Settings",
    "Share",
    "StateSettings",
    "TimeoutSettings",
    "VerifierPool",
    "VerifierSettings",
]
