"""Which prompts are worth rolling out next: beliefs over solve states, and what is chosen by them.

store = BeliefStore(ids, decay=0.7)
batch = store.select(256)               # largest P(partial) first
store.observe(batch.ids, states)        # what became of them; one step for the whole pool
"""

from dps_ray.beliefs.states import PARTIAL, SOLVED, UNSOLVED
from dps_ray.selection.choice import Selection, merge
from dps_ray.selection.methods.dps import BeliefStore
from dps_ray.selection.methods.uniform import UniformSelector
from dps_ray.selection.selector import Selector

__all__ = [
    "PARTIAL",
    "SOLVED",
    "UNSOLVED",
    "BeliefStore",
    "Selection",
    "Selector",
    "UniformSelector",
    "merge",
]
