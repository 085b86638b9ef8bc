"""Metrics of the training on a batch: means over response tokens, summed up on each rank and then over all ranks."""

import numpy as np
import torch
from torch import Tensor


class MinibatchSums:
    """Sums over the response tokens of one minibatch, on this rank; of a value named `..._max` its maximum."""

    def __init__(self) -> None:
        self.sums: dict[
            str, Tensor
        ] = {}  # by name, (2,) float64: the sum, and the number of tokens
        self.largest: dict[str, Tensor] = {}

    def add(self, mask: Tensor, per_token: dict[str, Tensor]) -> None:
        """Add the values of a micro-batch at the tokens where `mask` is 1."""
        for name, values in per_token.items():
            masked = (values.detach() * mask).double()
            if name.endswith("_max"):
                self.largest[name] = torch.maximum(
                    masked.max(), self.largest.get(name, masked.max())
                )
            else:
                both = torch.stack([masked.sum(), mask.double().sum()])
                self.sums[name] = self.sums.get(name, 0.0) + both


class BatchTotals:
    """Sums over the minibatches of a batch, of those for which an optimizer step was made.

    Args:
        of: whose they are, "actor" or "critic", as in the names of its metrics.
    """

    def __init__(self, of: str) -> None:
        self._of = of
        self.dropped = 0  # minibatches
        self._sums: dict[str, Tensor] = {}
        self._largest: list[dict[str, Tensor]] = []
        self._grad_norms: list[float] = []

    @property
    def stepped(self) -> bool:
        """Whether the weights have changed since the batch began."""
        return bool(self._grad_norms)

    def add(self, found: MinibatchSums, grad_norm: float | None) -> bool:
        """Add a minibatch, and return whether a step was made of it. If not, `grad_norm` is None."""
        if grad_norm is None:
            self.dropped += 1
            return False
        self._grad_norms.append(grad_norm)
        for name, both in found.sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + both
        self._largest.append(found.largest)
        return True

    def reduced(self, lr: float) -> dict[str, float]:
        """Return the metrics of the batch over all ranks; a collective. Besides the means they are `actor/lr`,
        `actor/grad_norm` and `actor/nonfinite_minibatches`, or the same of the critic."""
        metrics = {f"{self._of}/lr": lr, f"{self._of}/nonfinite_minibatches": float(self.dropped)}
        if not self.stepped:
            return metrics
        sums = torch.stack(list(self._sums.values()))
        torch.distributed.all_reduce(sums)
        for name, (total, tokens) in zip(self._sums, sums.tolist(), strict=True):
            metrics[name] = total / tokens
        for name in self._largest[0]:
            largest = torch.stack([found[name] for found in self._largest]).max()
            torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
            metrics[name] = float(largest)
        return {**metrics, f"{self._of}/grad_norm": float(np.mean(self._grad_norms))}
