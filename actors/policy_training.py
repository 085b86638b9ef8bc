"""The training of the policy on one rank: a DeepSpeed engine, and what it does with a batch.

    batch ──> minibatches, an optimizer step each ──> this rank's micro-batches ──> loss ──> gradients, summed over ranks

Every rank calls these methods alike, since each pass and each save is a collective. The environment variables of the
process group must be set before this module is imported: it imports torch and DeepSpeed.
"""

import math
from collections.abc import Callable
from typing import Any

import deepspeed
import deepspeed.ops
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors import learner_files
from actors.learner_setup import LearnerSetup
from actors.lora import without_adapters
from actors.policy import Inputs, Policy
from actors.training_metrics import BatchTotals, MinibatchSums
from dps_ray.durable import Manifest, Storage, Stored, checkpoint_folder
from dps_ray.errors import NonFiniteError
from dps_ray.failpoints import failpoint
from dps_ray.objective.grpo import grpo_loss_of
from dps_ray.objective.trajectories import Trajectories, micro_batches, minibatches, unpad


class PolicyTraining:
    """The policy in training.

    The constructor joins the process group, builds the DeepSpeed engine and loads the state of a checkpoint. Without
    a checkpoint it tries whether one can be written.

    Args:
        epoch: of the driver; in the names of files that are written for a while.

    Raises:
        CheckpointError: the checkpoint cannot be read, or is of another ZeRO stage; or none could be written.
    """

    def __init__(
        self,
        setup: LearnerSetup,
        rank: int,
        epoch: int,
        storage: Storage,
        manifest: Manifest | None,
    ) -> None:
        self._setup = setup
        self._rank = rank
        self._optimizer_steps = 0
        self._version = 0  # of the weights: the training step that made them
        self._device = torch.device("cuda", 0) if setup.on_gpu else torch.device("cpu")
        if not setup.on_gpu:
            _leave_out_the_shared_memory_extension()
        setup.card.bound_memory()
        deepspeed.init_distributed(dist_backend="nccl" if setup.on_gpu else "gloo")
        settings = setup.settings
        convert = manifest is not None and learner_files.needs_conversion(
            manifest, ranks=setup.ranks, zero_stage=settings.zero_stage
        )
        self._policy = Policy(setup.policy, setup.model, self._device)
        self.engine = self._deepspeed_engine(load_universal=convert)
        self._reference = None
        if setup.objective.kl_coef > 0 and settings.lora is None:
            self._reference = self._policy.load().eval().requires_grad_(False)
        if manifest is None:
            trial = checkpoint_folder(epoch, 0)
            learner_files.try_to_save(self.engine, self._policy.files, storage, trial)
        else:
            state = learner_files.load(
                self.engine,
                storage,
                manifest,
                epoch=epoch,
                convert=convert,
                timeout=setup.checkpoint_timeout,
            )
            self._optimizer_steps, self._version = state["optimizer_steps"], state["version"]
        setup.card.leave(self.engine)

    def train(self, trajectories: Trajectories, step: int) -> dict[str, float]:
        """Make the optimizer steps of one batch, and return metrics: means over its tokens and steps.

        Raises:
            NonFiniteError: a loss or gradient is NaN or infinite, and recovery.on_nonfinite=stop. All ranks raise it.
                The optimizer steps before that minibatch are made, and nothing of it is left.
        """
        self._setup.card.take(self.engine)
        totals = BatchTotals()
        self.engine.train()
        cuts = self._minibatches(len(trajectories.advantages), step)
        trajectories = self._with_proximal(self._with_reference(trajectories), cuts)
        for cut in cuts:
            for number, rows in enumerate(cut, 1):
                if self._step(trajectories, rows, step, totals):
                    continue
                if self._setup.stop_on_nonfinite:
                    raise NonFiniteError(
                        f"step {step}, minibatch {number} of {len(cut)}: the loss or its gradient is NaN or "
                        "infinite; no optimizer step was made of it. recovery.on_nonfinite=skip leaves such "
                        "minibatches out"
                    )
        self._version = step
        self._setup.card.leave(self.engine)
        self._setup.card.give_back_memory()
        failpoint("learner.train.after", step=step, rank=self._rank)
        return totals.reduced(self._learning_rate())

    def logprobs(self, trajectories: Trajectories) -> list[float]:
        """Return the log-probability of each response token under the current weights, concatenated (R,)."""
        result: list[float] = []
        for row in range(len(trajectories.advantages)):
            inputs = self._policy.inputs(trajectories, np.array([row]))
            with torch.no_grad():
                values = self._policy.scores(self.engine, inputs).logprobs
            result += values[0][inputs.tensors.response[0, 1:] > 0].tolist()
        return result

    def save(self, storage: Storage, folder: str) -> Callable[[], list[Stored]]:
        """Write the files of a checkpoint, and return what makes them durable; see `learner_files.write`.

        Raises:
            CheckpointError: a rank could not write; all raise it.
        """
        state = {"optimizer_steps": self._optimizer_steps, "version": self._version}
        return learner_files.write(self.engine, self._policy.files, state, storage, folder)

    # The DeepSpeed engine.

    def _deepspeed_engine(self, load_universal: bool) -> Any:
        settings, on_gpu = self._setup.settings, self._setup.on_gpu
        model = self._policy.load(settings.freeze_vision_tower, settings.lora)
        recompute = settings.gradient_checkpointing
        if on_gpu if recompute is None else recompute:
            model.gradient_checkpointing_enable()
        optimizer = torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=settings.lr,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=on_gpu,
        )
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=self._deepspeed_config(load_universal)
        )
        return engine

    def _deepspeed_config(self, load_universal: bool) -> dict[str, Any]:
        settings = self._setup.settings
        bfloat16, stage = self._setup.policy.dtype == "bfloat16", settings.zero_stage
        return {
            # Micro-batches vary in number; their boundaries are set by hand in `_step`.
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

    # How a batch is cut.

    def _minibatches(self, n: int, step: int) -> list[list[NDArray[np.int64]]]:
        """Return the minibatches of n trajectories, for each pass over the batch."""
        settings, seed = self._setup.settings, self._setup.seed
        return [
            minibatches(n, settings.minibatches, np.random.default_rng([seed, step, epoch]))
            for epoch in range(settings.epochs)
        ]

    def _my_micro_batches(
        self, trajectories: Trajectories, rows: NDArray[np.int64]
    ) -> list[NDArray[np.int64]]:
        """Return this rank's share of these rows as micro-batches, as many as every other rank has."""
        budget = self._setup.settings.max_tokens_per_micro_batch
        packs = micro_batches(trajectories.lengths[rows], budget, self._setup.ranks)[self._rank]
        return [rows[packed] for packed in packs]

    # Log-probabilities before the batch's first update.

    def _with_proximal(
        self, trajectories: Trajectories, cuts: list[list[NDArray[np.int64]]]
    ) -> Trajectories:
        """Return the trajectories with the policy's log-probabilities before the batch, where the objective needs
        them: the first minibatch's own forward pass gives its own."""
        _, *later = [rows for cut in cuts for rows in cut]
        if self._setup.objective.importance_cap is None or not later:
            return trajectories
        rows = np.unique(np.concatenate(later))
        return trajectories._replace(proximal=self._logprobs(self.engine, trajectories, rows))

    def _with_reference(self, trajectories: Trajectories) -> Trajectories:
        """Return the trajectories with the reference policy's log-probabilities, if there is one."""
        if self._setup.objective.kl_coef == 0:
            return trajectories
        rows = np.arange(len(trajectories.advantages))
        if self._reference is None:
            found = self._logprobs_without_adapters(trajectories, rows)
        else:  # on the device only for this
            self._reference.to(self._device)
            found = self._logprobs(self._reference, trajectories, rows)
            self._reference.to("cpu")
        return trajectories._replace(reference=found)

    def _logprobs_without_adapters(
        self, trajectories: Trajectories, rows: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Like `_logprobs`, of the start policy: the trained model without its adapters."""
        self.engine.eval()
        with without_adapters(self.engine.module):
            found = self._logprobs(self.engine, trajectories, rows)
        self.engine.train()
        return found

    def _logprobs(
        self, model: Any, trajectories: Trajectories, rows: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return the log-probability of every response token of these rows, zero for the tokens of others; a
        collective."""
        found = np.zeros_like(trajectories.logprobs)
        for packed in self._my_micro_batches(trajectories, rows):
            inputs = self._policy.inputs(trajectories, packed)
            # The first position, which nothing predicts, is never part of a response.
            here = torch.zeros_like(inputs.tensors.logprobs)
            with torch.no_grad():
                here[:, 1:] = self._policy.scores(model, inputs).logprobs
            unpad(here.cpu().numpy(), trajectories, packed, found)
        # Every rank has its share, and zeros elsewhere; with several passes it needs the others' too.
        whole = torch.from_numpy(found).to(self._device)
        torch.distributed.all_reduce(whole)
        return whole.cpu().numpy()

    # Optimizer steps.

    def _step(
        self, trajectories: Trajectories, rows: NDArray[np.int64], step: int, totals: BatchTotals
    ) -> bool:
        """Make one optimizer step on a minibatch; return False if all ranks dropped it because it is not finite."""
        mine = self._my_micro_batches(trajectories, rows)
        size = {
            "minibatch_tokens": int(trajectories.trained_lengths[rows].sum()),
            "minibatch_sequences": len(rows),
        }
        for group in self.engine.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        found = MinibatchSums()
        for index, packed in enumerate(mine):
            self.engine.set_gradient_accumulation_boundary(index == len(mine) - 1)
            inputs = self._policy.inputs(trajectories, packed)
            loss = self._loss(inputs, size, found, first=not totals.stepped)
            if failpoint("learner.loss", step=step, rank=self._rank) or not torch.isfinite(loss):
                # Then all of the gradient is NaN, and after the reduction that of every rank, so all ranks
                # know. (A loss that is not finite can have a gradient that is.)
                loss = loss * math.nan
            # DeepSpeed averages gradients over the ranks; the weights are already relative to the
            # whole minibatch, so the gradients are to be summed.
            self.engine.backward(loss * self._setup.ranks)
        grad_norm = self._apply()
        if grad_norm is None:
            totals.dropped += 1
            return False
        self._optimizer_steps += 1
        totals.add_step(found, grad_norm)
        return True

    def _loss(
        self, inputs: Inputs, size: dict[str, int], sums: MinibatchSums, first: bool
    ) -> Tensor:
        """Return the part of the minibatch's loss that this micro-batch contributes, a scalar.

        Args:
            first: the batch has made no update yet.
        """
        objective, tensors = self._setup.objective, inputs.tensors
        scores = self._policy.scores(self.engine, inputs, objective.entropy_coef > 0)
        loss, per_token = grpo_loss_of(scores, tensors, settings=objective, first=first, **size)
        sums.add(tensors.response[:, 1:], per_token)
        return loss

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

    def _learning_rate(self) -> float:
        settings = self._setup.settings
        warm = min(1.0, (self._optimizer_steps + 1) / max(settings.warmup_steps, 1))
        return settings.lr * warm


def _leave_out_the_shared_memory_extension() -> None:
    """Keep DeepSpeed from compiling a C++ extension at its first start on a CPU.

    That takes 30 s, behind a lock file that stays locked if the process is killed. Gloo alone serves ranks on one
    machine well.
    """
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
