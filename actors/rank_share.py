"""What one rank computes of a batch: its share of the micro-batches, and values of all tokens gathered from all ranks."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.learner_setup import LearnerSetup
from actors.sequence_parallel import SequenceParallel
from dps_ray.objective.trajectories import Trajectories, micro_batches, minibatches, unpad


class RankShare:
    """One rank's part in passes over a batch.

    Args:
        sequence: the ranks that share each sequence with this one.
    """

    def __init__(
        self, setup: LearnerSetup, sequence: SequenceParallel, device: torch.device
    ) -> None:
        self._setup = setup
        self._sequence = sequence
        self._device = device

    def minibatches(
        self, n: int, step: int, *, count: int, epochs: int
    ) -> list[list[NDArray[np.int64]]]:
        """Return the minibatches of n trajectories, the same on every rank, for each pass over the batch.

        Args:
            count: minibatches of a pass.
            epochs: passes.
        """
        return [
            minibatches(n, count, np.random.default_rng([self._setup.seed, step, epoch]))
            for epoch in range(epochs)
        ]

    def micro_batches(
        self, trajectories: Trajectories, rows: NDArray[np.int64]
    ) -> list[NDArray[np.int64]]:
        """Return this rank's share of these rows as micro-batches, as many as every other rank has. Ranks that share
        sequences have the same rows, and the budget is for a rank's part of their tokens."""
        sequence, budget = self._sequence, self._setup.settings.max_tokens_per_micro_batch
        lengths = sequence.divided(trajectories.lengths[rows])
        packs = micro_batches(lengths, budget, sequence.groups)[sequence.group]
        return [rows[packed] for packed in packs]

    def of_every_token(
        self,
        trajectories: Trajectories,
        rows: NDArray[np.int64],
        compute: Callable[[NDArray[np.int64]], Tensor],
    ) -> NDArray[np.float32]:
        """Return a value for every response token of these rows, zero for the tokens of others; a collective.

        Args:
            compute: returns the values of a micro-batch, (b, t - 1) float32: all but the first position, which is never
                part of a response.
        """
        found = np.zeros_like(trajectories.logprobs)
        for packed in self.micro_batches(trajectories, rows):
            with torch.no_grad():
                here = torch.nn.functional.pad(compute(packed), (1, 0))
            if self._sequence.first:
                unpad(here.cpu().numpy(), trajectories, packed, found)
        # Every rank has its share, and zeros elsewhere; with several passes it needs the others' too.
        whole = torch.from_numpy(found).to(self._device)
        torch.distributed.all_reduce(whole)
        return whole.cpu().numpy()
