"""A model in training on one rank, policy or critic: its DeepSpeed engine, and the optimizer step of a minibatch.

minibatch ──> this rank's micro-batches ──> loss of each ──> gradients, summed over ranks ──> step, or none on any rank
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import deepspeed
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.learner_setup import LearnerSetup
from dps_ray.errors import NonFiniteError


class TrainedModel:
    """A model with its optimizer.

    Args:
        model: on the CPU; its parameters that require a gradient are trained.
        lr: learning rate.
        warmup_steps: optimizer steps over which the learning rate rises to it.
        load_universal: the state of a checkpoint of another number of ranks is to be loaded.
    """

    def __init__(
        self,
        model: Any,
        setup: LearnerSetup,
        *,
        lr: float,
        warmup_steps: int = 0,
        load_universal: bool,
    ) -> None:
        settings = setup.settings
        self._setup = setup
        self._lr = lr
        self._warmup_steps = warmup_steps
        self.steps = 0
        """Optimizer steps made since the start of the run."""
        optimizer = torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=lr,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=setup.on_gpu,
        )
        self.engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=_deepspeed_config(setup, load_universal)
        )

    def learning_rate(self) -> float:
        """Return the learning rate of the next step."""
        return self._lr * min(1.0, (self.steps + 1) / max(self._warmup_steps, 1))

    def step(
        self,
        micro_batches: Sequence[NDArray[np.int64]],
        loss_of: Callable[[NDArray[np.int64]], Tensor],
    ) -> float | None:
        """Make one optimizer step, and return the norm of its gradient before clipping; a collective.

        If the loss or the gradient is NaN or infinite on any rank, no rank makes a step, and all return None.

        Args:
            micro_batches: this rank's share of the minibatch, as many as every other rank has.
            loss_of: returns the part of the minibatch's loss that a micro-batch contributes, a scalar.
        """
        for group in self.engine.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        for index, packed in enumerate(micro_batches):
            self.engine.set_gradient_accumulation_boundary(index == len(micro_batches) - 1)
            loss = loss_of(packed)
            if not torch.isfinite(loss):
                # Then all of the gradient is NaN, and after the reduction that of every rank, so all ranks
                # know. (A loss that is not finite can have a gradient that is.)
                loss = loss * math.nan
            # DeepSpeed averages gradients over the ranks; the weights are already relative to the
            # whole minibatch, so the gradients are to be summed.
            self.engine.backward(loss * self._setup.ranks)
        grad_norm = self._apply()
        if grad_norm is not None:
            self.steps += 1
        return grad_norm

    def _apply(self) -> float | None:
        """Make an optimizer step with the gradients, and return their norm before clipping.

        If that is NaN or infinite, drop the gradients, on all ranks alike, and return None. Under ZeRO and in
        bfloat16 DeepSpeed does so itself, as on an overflow.
        """
        unsharded_norm = self._unsharded_grad_norm()
        if self.engine.zero_optimization_stage() == 0 and not math.isfinite(unsharded_norm):
            self.engine.zero_grad()
            return None
        self.engine.step()
        if not self.engine.was_step_applied():
            return None
        return float(self.engine.get_global_grad_norm() or unsharded_norm)

    def _unsharded_grad_norm(self) -> float:
        """Return the norm before clipping under ZeRO-0, where DeepSpeed keeps none; NaN under other stages."""
        if self.engine.zero_optimization_stage() > 0:
            return math.nan
        grads = [p.grad for p in self.engine.module.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(grads))


def recompute_activations(model: Any, setup: LearnerSetup) -> None:
    """Make this transformers model recompute its activations in the backward pass, if the settings say so."""
    wanted = setup.settings.gradient_checkpointing
    if setup.on_gpu if wanted is None else wanted:
        model.gradient_checkpointing_enable()


def each_minibatch(
    cuts: Sequence[Sequence[NDArray[np.int64]]],
    step_on: Callable[[NDArray[np.int64]], bool],
    *,
    stop: bool,
    where: str,
) -> None:
    """Call `step_on` with the rows of every minibatch of every pass.

    Args:
        cuts: the minibatches of each pass over the batch.
        step_on: makes an optimizer step; returns whether it did.
        stop: stop at a minibatch that made no step.
        where: what is trained, and in which step, for the error.

    Raises:
        NonFiniteError: no step was made of a minibatch, and `stop` is set.
    """
    for cut in cuts:
        for number, rows in enumerate(cut, 1):
            if not step_on(rows) and stop:
                raise NonFiniteError(
                    f"{where}, minibatch {number} of {len(cut)}: the loss or its gradient is NaN or "
                    "infinite; no optimizer step was made of it. recovery.on_nonfinite=skip leaves such "
                    "minibatches out"
                )


def _deepspeed_config(setup: LearnerSetup, load_universal: bool) -> dict[str, Any]:
    settings = setup.settings
    bfloat16, stage = setup.policy.dtype == "bfloat16", settings.zero_stage
    return {
        # Micro-batches vary in number; their boundaries are set by hand in `TrainedModel.step`.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.clip_norm,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,  # torch's AdamW
        "bf16": {"enabled": bfloat16},
        # Sums of many micro-batches: in bfloat16 128 of them are 0.9% off. Stage 0 does not know the setting.
        **({"data_types": {"grad_accum_dtype": "fp32"}} if bfloat16 and stage > 0 else {}),
        "checkpoint": {"load_universal": load_universal},
        "steps_per_print": 10**9,
    }
