"""What is known of prompts before a run: an evaluation of its start policy, or the log of an earlier run.

A selector that predicts begins with what it would believe after observing the evidence step by step, so older groups
count less as they do in a run, mixed with the belief of a prompt never seen:

    b_0 = (1 - w) b_prior + w b_evidence,     w: `selector.start_weight`

b are the numbers that a method keeps of a prompt or cluster, such as a and b of a Beta distribution. Evidence is no visit:
the prompts count as never sampled.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dps_ray.beliefs.states import Observation
from dps_ray.selection.pool.index import PromptIndex

OUTCOMES = (
    "none right",
    "up to a third right",
    "about half right",
    "two thirds right or more",
    "all right",
)
"""The kinds into which `by_outcome` divides a cluster."""


class Evidence(NamedTuple):
    """Groups that were observed before the run, of prompts of its pool.

    found:  the groups, with counts; an id may occur once at each age
    ages:   int32 (n,), how many steps before the end of the evidence each was observed, from 0
    weight: w in (0, 1]
    """

    found: Observation
    ages: NDArray[np.int32]
    weight: float

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> "Evidence":
        """Returns these groups only, in this order."""
        return self._replace(found=self.found.take(rows), ages=self.ages[rows])

    def steps(self) -> Iterator[Observation]:
        """Yields what each step observed, ascending by id, oldest step first. Steps without a group are empty."""
        order = np.lexsort((self.found.ids, -self.ages))
        ages = self.ages[order]
        for age in range(int(ages[0]) if len(ages) else -1, -1, -1):
            first, last = np.searchsorted(-ages, [-age, -age + 1])
            yield self.found.take(order[first:last])

    def newest(self) -> "Evidence":
        """Returns the newest group of each prompt, ascending by id."""
        order = np.lexsort((self.ages, self.found.ids))
        ids = self.found.ids[order]
        return self.take(order[np.append(True, ids[1:] != ids[:-1])[: len(ids)]])

    def rates(self) -> NDArray[np.float64]:
        """The share of right responses in each group: (n,)."""
        assert self.found.successes is not None
        assert self.found.responses is not None
        shares: NDArray[np.float64] = self.found.successes / self.found.responses
        return shares


def held_by(index: PromptIndex, whole: Observation) -> Observation:
    """Returns what was observed of the prompts in this index."""
    return whole.take(index.find(whole.ids)[1])


def by_outcome(
    ids: NDArray[np.int64], labels: NDArray[np.integer], names: Sequence[str], evidence: Evidence
) -> tuple[NDArray[np.int32], list[str]]:
    """Divides each cluster by what its prompts showed when they were last seen. Returns the new labels and names.

    A method that learns by cluster can then tell prompts apart at the cost of more clusters, however many prompts
    there is evidence of. Prompts without evidence stay in the cluster of the old name.

    ids: int64 (N,), ascending; labels: int (N,), positions in `names`.
    """
    last = evidence.newest()
    rates = last.rates()
    kinds = np.zeros(len(ids), np.int64)
    rows = np.minimum(np.searchsorted(ids, last.found.ids), len(ids) - 1)
    here = ids[rows] == last.found.ids
    kinds[rows[here]] = (
        1 + np.select([rates == 0, rates <= 1 / 3, rates < 2 / 3, rates < 1], [0, 1, 2, 3], 4)[here]
    )
    wide = 1 + len(OUTCOMES)
    used, renumbered = np.unique(labels.astype(np.int64) * wide + kinds, return_inverse=True)
    found = []
    for label, kind in zip((used // wide).tolist(), (used % wide).tolist(), strict=True):
        found.append(f"{names[label]}, {OUTCOMES[kind - 1]}" if kind else names[label])
    return renumbered.astype(np.int32), found
