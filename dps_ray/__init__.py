"""Which prompts are worth rolling out next: beliefs over solve states, and what is chosen by them.

store = BeliefStore(ids, decay=0.7)
batch = store.select(256)               # largest P(partial) first
store.observe(batch.ids, states)        # what became of them; one step for the whole pool
"""

from dps_ray.beliefs import BeliefStore
from dps_ray.selection import Selection, merge
from dps_ray.selector import Selector
from dps_ray.states import PARTIAL, SOLVED, UNSOLVED
from dps_ray.uniform import UniformSelector

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
