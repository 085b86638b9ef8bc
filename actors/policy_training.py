"""The training of the policy on one rank: a DeepSpeed engine, and what it does with a batch.

    batch ──> minibatches, an optimizer step each ──> this rank's micro-batches ──> loss ──> gradients, summed over ranks

Every rank calls these methods alike, since each pass and each save is a collective. The environment variables of the
process group must be set before this module is imported: it imports torch and DeepSpeed.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import deepspeed
import deepspeed.ops
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors import learner_files
from actors.critic_training import CriticTraining
from actors.learner_setup import LearnerSetup
from actors.lora import without_adapters
from actors.policy import Inputs, Policy
from actors.rank_share import RankShare
from actors.sequence_parallel import SequenceParallel
from actors.trained_model import TrainedModel, each_minibatch, recompute_activations
from actors.training_metrics import BatchTotals, MinibatchSums
from dps_ray.durable import Manifest, Storage, Stored, checkpoint_folder
from dps_ray.failpoints import failpoint
from dps_ray.objective.grpo import grpo_loss_of
from dps_ray.objective.trajectories import Trajectories


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
        sequence = SequenceParallel(settings.sequence_parallel, rank, setup.ranks)
        self._share = RankShare(setup, sequence, self._device)
        self._policy = Policy(setup.policy, setup.model, self._device, sequence)
        model = self._policy.load(settings.freeze_vision_tower, settings.lora)
        recompute_activations(model, setup)
        self._model = TrainedModel(
            model,
            setup,
            lr=settings.lr,
            warmup_steps=settings.warmup_steps,
            load_universal=convert,
        )
        self._reference = None
        if setup.objective.kl_coef > 0 and settings.lora is None:
            self._reference = self._policy.load().eval().requires_grad_(False)
        self._critic = None
        if setup.objective.has_critic:
            self._critic = CriticTraining(
                setup, rank, self._device, self._policy, self._share, load_universal=convert
            )
        self._begin_with(storage, manifest, epoch, convert)
        setup.card.leave(self.engine)
        if self._critic is not None:
            setup.card.leave(self._critic.engine)

    @property
    def engine(self) -> Any:
        """The DeepSpeed engine of the policy."""
        return self._model.engine

    def _begin_with(
        self, storage: Storage, manifest: Manifest | None, epoch: int, convert: bool
    ) -> None:
        """Load the state of a checkpoint; without one, try whether one can be written."""
        if manifest is None:
            trial = checkpoint_folder(epoch, 0)
            learner_files.try_to_save(self.engine, self._policy.files, storage, trial)
            return
        load = partial(
            learner_files.load,
            storage=storage,
            manifest=manifest,
            epoch=epoch,
            convert=convert,
            timeout=self._setup.checkpoint_timeout,
        )
        state = load(self.engine, learner_files.POLICY)
        self._model.steps, self._version = state["optimizer_steps"], state["version"]
        if self._critic is not None:
            self._critic.load_state(load(self._critic.engine, learner_files.CRITIC))

    def train(self, trajectories: Trajectories, step: int) -> dict[str, float]:
        """Make the optimizer steps of one batch, and return metrics: means over its tokens and steps.

        With a critic, its values before the batch give the advantages. It is trained after the policy.

        Raises:
            NonFiniteError: a loss or gradient is NaN or infinite, and recovery.on_nonfinite=stop. All ranks raise it.
                The optimizer steps before that minibatch are made, and nothing of it is left.
        """
        if self._critic is None:
            metrics = self._train_policy(trajectories, step)
        else:
            trajectories, judged = self._critic.judge(trajectories)
            waits = self._critic.policy_waits(step)
            metrics = {} if waits else self._train_policy(trajectories, step)
            metrics |= self._critic.train(trajectories, judged, step)
        self._version = step
        self._setup.card.give_back_memory()
        failpoint("learner.train.after", step=step, rank=self._rank)
        return metrics

    def _train_policy(self, trajectories: Trajectories, step: int) -> dict[str, float]:
        settings = self._setup.settings
        self._setup.card.take(self.engine)
        totals = BatchTotals("actor")
        self.engine.train()
        cuts = self._share.minibatches(
            len(trajectories.advantages), step, count=settings.minibatches, epochs=settings.epochs
        )
        trajectories = self._with_proximal(self._with_reference(trajectories), cuts)
        each_minibatch(
            cuts,
            lambda rows: self._step(trajectories, rows, step, totals),
            stop=self._setup.stop_on_nonfinite,
            where=f"step {step}",
        )
        self._setup.card.leave(self.engine)
        return totals.reduced(self._model.learning_rate())

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
        states = {"optimizer_steps": self._model.steps, "version": self._version}
        parts = [learner_files.Part(learner_files.POLICY, self.engine, states)]
        if self._critic is not None:
            parts.append(
                learner_files.Part(learner_files.CRITIC, self._critic.engine, self._critic.state)
            )
        return learner_files.write(parts, self._policy.files, self._version, storage, folder)

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

        def logprobs(packed: NDArray[np.int64]) -> Tensor:
            return self._policy.scores(model, self._policy.inputs(trajectories, packed)).logprobs

        return self._share.of_every_token(trajectories, rows, logprobs)

    # Optimizer steps.

    def _step(
        self, trajectories: Trajectories, rows: NDArray[np.int64], step: int, totals: BatchTotals
    ) -> bool:
        """Make one optimizer step on a minibatch; return False if all ranks dropped it because it is not finite."""
        size = {
            "minibatch_tokens": int(trajectories.trained_lengths[rows].sum()),
            "minibatch_sequences": len(rows),
            "response_limit": self._setup.response_limit,
        }
        found = MinibatchSums()

        def loss_of(packed: NDArray[np.int64]) -> Tensor:
            inputs = self._policy.inputs(trajectories, packed)
            loss = self._loss(inputs, size, found, first=not totals.stepped)
            if failpoint("learner.loss", step=step, rank=self._rank):
                return loss * math.nan
            return loss

        grad_norm = self._model.step(self._share.micro_batches(trajectories, rows), loss_of)
        return totals.add(found, grad_norm)

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


def _leave_out_the_shared_memory_extension() -> None:
    """Keep DeepSpeed from compiling a C++ extension at its first start on a CPU.

    That takes 30 s, behind a lock file that stays locked if the process is killed. Gloo alone serves ranks on one
    machine well.
    """
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
