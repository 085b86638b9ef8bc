"""The training of PPO's critic on one rank, beside the policy's.

    batch with scores ──> values ──> GAE ──> advantages of tokens, for the policy
                                       └───> returns ──> minibatches ──> value loss ──> optimizer steps of the critic

The values are those from before the batch, as the policy's log-probabilities in the clipped ratio are. Every rank calls
these methods alike. All ranks have the values of all tokens, so they make the same advantages.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.critic import load_critic
from actors.learner_setup import LearnerSetup
from actors.policy import Policy
from actors.rank_share import RankShare
from actors.trained_model import TrainedModel, each_minibatch, recompute_activations
from actors.training_metrics import BatchTotals, MinibatchSums
from dps_ray.failpoints import failpoint
from dps_ray.objective.gae import explained_variance, token_estimates, whitened
from dps_ray.objective.trajectories import Trajectories, pad_values
from dps_ray.objective.value_loss import value_loss


class Judged(NamedTuple):
    """What the critic says of a batch before it is trained on it."""

    values: NDArray[np.float32]  # (sum of response lengths,)
    returns: NDArray[np.float32]  # (sum of response lengths,), which the critic is to learn
    explained_variance: float | None  # None: all returns are equal


class CriticTraining:
    """The critic in training.

    Args:
        policy: makes the inputs of a micro-batch, and runs the model on them.
        load_universal: as for `TrainedModel`.
    """

    def __init__(
        self,
        setup: LearnerSetup,
        rank: int,
        device: torch.device,
        policy: Policy,
        share: RankShare,
        load_universal: bool,
    ) -> None:
        self._setup = setup
        self._settings = setup.settings.critic
        self._rank = rank
        self._device = device
        self._policy = policy
        self._share = share
        model = load_critic(
            self._settings.path or setup.model,
            getattr(torch, setup.policy.dtype),
            setup.settings.freeze_vision_tower,
        )
        policy.sequence.adopt(model.body)
        recompute_activations(model.body, setup)
        self._model = TrainedModel(
            model, setup, lr=self._settings.lr, load_universal=load_universal
        )

    @property
    def engine(self) -> Any:
        """The DeepSpeed engine."""
        return self._model.engine

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint holds besides the engine."""
        return {"optimizer_steps": self._model.steps}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from the state of a checkpoint."""
        self._model.steps = state["optimizer_steps"]

    def policy_waits(self, step: int) -> bool:
        """Return whether only the critic is trained in this step of the run."""
        return step <= self._settings.warmup_steps

    def judge(self, trajectories: Trajectories) -> tuple[Trajectories, Judged]:
        """Return the trajectories with the advantages of their tokens, and what the critic is to learn of them; a
        collective. With `objective.scale=batch` the advantages are whitened over the batch, as in verl."""
        assert trajectories.scores is not None, "with a critic the driver sends scores"
        self.engine.train()
        values = self._share.of_every_token(
            trajectories,
            np.arange(len(trajectories.scores)),
            lambda packed: self._values(packed, trajectories)[0],
        )
        trained = trajectories.trained
        found = token_estimates(
            values,
            trajectories.scores,
            trajectories.response_lengths,
            gamma=self._settings.gamma,
            lam=self._settings.lam,
            trained=trained,
        )
        advantages = found.advantages
        if self._setup.objective.scale == "batch":
            advantages = whitened(advantages, trained)
        judged = Judged(
            values,
            found.returns.astype(np.float32),
            explained_variance(values, found.returns, trained),
        )
        return trajectories._replace(token_advantages=advantages.astype(np.float32)), judged

    def train(self, trajectories: Trajectories, judged: Judged, step: int) -> dict[str, float]:
        """Make the critic's optimizer steps of one batch, and return its metrics, by verl's names: means over tokens and
        steps.

        Raises:
            NonFiniteError: as `PolicyTraining.train`.
        """
        totals = BatchTotals("critic")
        learner, critic = self._setup.settings, self._settings
        cuts = self._share.minibatches(
            len(trajectories.advantages),
            step,
            count=critic.minibatches or learner.minibatches,
            epochs=critic.epochs or learner.epochs,
        )
        self._setup.card.take(self.engine)
        self.engine.train()
        each_minibatch(
            cuts,
            lambda rows: self._step(trajectories, judged, rows, step, totals),
            stop=self._setup.stop_on_nonfinite,
            where=f"step {step}, critic",
        )
        self._setup.card.leave(self.engine)
        metrics = totals.reduced(self._model.learning_rate())
        if judged.explained_variance is not None:
            metrics |= {"critic/vf_explained_var": judged.explained_variance}
        return metrics

    def _step(
        self,
        trajectories: Trajectories,
        judged: Judged,
        rows: NDArray[np.int64],
        step: int,
        totals: BatchTotals,
    ) -> bool:
        """Make one optimizer step on a minibatch; return False if all ranks dropped it because it is not finite."""
        found = MinibatchSums()
        tokens = trajectories.trained_lengths[rows].sum()

        def loss_of(packed: NDArray[np.int64]) -> Tensor:
            values, response = self._values(packed, trajectories)
            before, returns = (
                self._padded(flat, trajectories, packed, response) for flat in judged[:2]
            )
            loss, clipped = value_loss(values, before, returns, self._settings.clip)
            found.add(
                response,
                {
                    "critic/vf_loss": loss,
                    "critic/vf_clipfrac": clipped,
                    "critic/vpred_mean": values,
                },
            )
            whole: Tensor = (loss * response / tokens).sum()
            if failpoint("learner.critic.loss", step=step, rank=self._rank):
                whole = whole * math.nan
            return whole

        grad_norm = self._model.step(self._share.micro_batches(trajectories, rows), loss_of)
        return totals.add(found, grad_norm)

    def _values(
        self, packed: NDArray[np.int64], trajectories: Trajectories
    ) -> tuple[Tensor, Tensor]:
        """Return the value of every response token of a micro-batch, (b, t - 1) and zero elsewhere, and where these tokens
        are, float32 (b, t - 1)."""
        inputs = self._policy.inputs(trajectories, packed)
        (values,) = self._policy.at_responses(self.engine, inputs)
        return values, inputs.tensors.response[:, 1:]

    def _padded(
        self,
        flat: NDArray[np.float32],
        trajectories: Trajectories,
        packed: NDArray[np.int64],
        like: Tensor,
    ) -> Tensor:
        """Return values of tokens in the layout of `like`, (b, t - 1)."""
        rows, columns = like.shape
        padded = pad_values(flat, trajectories, packed, (rows, columns + 1))
        return torch.from_numpy(padded[:, 1:]).to(self._device)
