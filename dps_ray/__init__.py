"""Which prompts are worth rolling out next: beliefs over solve states, and what is chosen by them.

store = BeliefStore(ids, decay=0.7)
batch = store.select(256)               # largest P(partial) first
store.observe(Observation(batch.ids, states))  # what became of them; one step for the whole pool
"""

from typing import TYPE_CHECKING, Any

from dps_ray.beliefs.states import PARTIAL, SOLVED, UNSOLVED, Observation
from dps_ray.errors import ConfigError
from dps_ray.sampler.prompt_sampler import PromptSampler
from dps_ray.selection.choice import Selection, merge
from dps_ray.selection.methods.dps import BeliefStore
from dps_ray.selection.methods.uniform import UniformSelector
from dps_ray.selection.selector import Selector

if TYPE_CHECKING:
    from dps_ray.config import Config

__all__ = [
    "PARTIAL",
    "SOLVED",
    "UNSOLVED",
    "BeliefStore",
    "Config",
    "Observation",
    "PromptSampler",
    "Selection",
    "Selector",
    "UniformSelector",
    "merge",
]


def __getattr__(name: str) -> Any:
    if name == "Config":  # when it is asked for: a selector needs none of the other settings
        try:
            from dps_ray.config import Config
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"{error.name} is not installed, and Config needs it: pip install 'dps_ray[train]'"
            ) from error
        return Config
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
