"""One rank of the learner: a DeepSpeed engine, trained on its share of each minibatch."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import ray

from actors.process import free_port, log_to
from dps_ray.config import Config
from dps_ray.errors import EngineError
from dps_ray.trajectories import PaddedBatch, Trajectories, micro_batches, minibatches, pad


@ray.remote
class LearnerRank:
    """One rank. All ranks are called alike, since every pass, save and publish is a collective."""

    def __init__(self, config: Config, model: str, rank: int):
        log_to(config.folder / "logs", f"learner-{rank}")
        self._config = config
        self._model_path = model
        self._rank = rank
        self._ranks = config.resources.learner.ranks
        self._optimizer_steps = 0

    def address(self) -> tuple[str, int]:
        return ray.util.get_node_ip_address(), free_port()

    def start(self, address: str, port: int) -> None:
        """Join the process group and build the DeepSpeed engine."""
        import os

        os.environ.update(
            RANK=str(self._rank),
            WORLD_SIZE=str(self._ranks),
            LOCAL_RANK="0",
            MASTER_ADDR=address,
            MASTER_PORT=str(port),
        )
        import deepspeed
        import torch
        from transformers import AutoModelForCausalLM

        self._on_gpu = self._config.resources.learner.gpus_per_rank > 0
        self._device = torch.device("cuda", 0) if self._on_gpu else torch.device("cpu")
        if not self._on_gpu:
            _leave_out_the_shared_memory_extension()
        deepspeed.init_distributed(dist_backend="nccl" if self._on_gpu else "gloo")
        settings = self._config.learner
        dtype = getattr(torch, self._config.model.dtype)
        model = AutoModelForCausalLM.from_pretrained(self._model_path, dtype=dtype)
        if settings.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=settings.lr,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
        )
        self._engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=self._deepspeed_config()
        )
        self._reference = None
        if self._config.objective.kl_coef > 0:
            reference = AutoModelForCausalLM.from_pretrained(self._model_path, dtype=dtype)
            self._reference = reference.to(self._device).eval().requires_grad_(False)

    def _deepspeed_config(self) -> dict[str, Any]:
        return {
            # Micro-batches vary in number; their boundaries are set by hand in `_step`.
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": self._config.learner.clip_norm,
            "zero_optimization": {"stage": self._config.learner.zero_stage},
            "zero_allow_untested_optimizer": True,  # torch's AdamW
            "bf16": {"enabled": self._config.model.dtype == "bfloat16"},
            "steps_per_print": 10**9,
        }

    # Training.

    def train(self, trajectories: Trajectories, step: int) -> dict[str, float]:
        """Make the optimizer steps of one batch; metrics are means over its tokens and steps."""
        totals = _Totals()
        self._engine.train()
        for epoch in range(self._config.learner.epochs):
            rng = np.random.default_rng([self._config.seed, step, epoch])
            for rows in minibatches(
                len(trajectories.advantages), self._config.learner.minibatches, rng
            ):
                self._step(trajectories, rows, totals)
        return totals.reduced(self._learning_rate())

    def _step(self, trajectories: Trajectories, rows: Any, totals: "_Totals") -> None:
        """One optimizer step on a minibatch."""
        budget = self._config.learner.max_tokens_per_micro_batch
        mine = micro_batches(trajectories.lengths[rows], budget, self._ranks)[self._rank]
        size = {
            "minibatch_tokens": int(trajectories.response_lengths[rows].sum()),
            "minibatch_sequences": len(rows),
        }
        for group in self._engine.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        for index, packed in enumerate(mine):
            self._engine.set_gradient_accumulation_boundary(index == len(mine) - 1)
            loss = self._loss(pad(trajectories, rows[packed]), size, totals)
            # DeepSpeed averages gradients over the ranks; the weights are already relative to the
            # whole minibatch, so the gradients are to be summed.
            self._engine.backward(loss * self._ranks)
        unsharded_norm = self._unsharded_grad_norm()
        self._engine.step()
        self._optimizer_steps += 1
        totals.add_step(float(self._engine.get_global_grad_norm() or unsharded_norm))

    def _unsharded_grad_norm(self) -> float:
        """Norm before clipping under ZeRO-0, where DeepSpeed keeps none; else nothing."""
        import torch

        if self._engine.zero_optimization_stage() > 0:
            return math.nan
        grads = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(grads))

    def _loss(self, batch: PaddedBatch, size: dict[str, int], totals: "_Totals") -> Any:
        """The part of the minibatch's loss that this micro-batch contributes, a scalar tensor."""
        import torch

        from dps_ray.objective import grpo_loss, to_tensors

        tensors = to_tensors(batch, self._device)
        inputs = {"input_ids": tensors.tokens, "attention_mask": tensors.attention}
        logits = self._engine(**inputs, use_cache=False).logits
        reference = None
        if self._reference is not None:
            with torch.no_grad():
                reference = self._reference(**inputs, use_cache=False).logits
        loss, per_token = grpo_loss(
            logits,
            reference,
            tensors,
            settings=self._config.objective,
            temperature=self._config.rollout.temperature,
            **size,
        )
        mask = tensors.response[:, 1:]
        difference = per_token.pop("rollout/logprob_diff_mean")
        if not totals.stepped:
            # Before the first update both sides hold the same weights: what differs is the engine.
            totals.add_tokens(mask, {"rollout/logprob_diff_mean": difference})
        totals.add_tokens(mask, per_token)
        return loss

    def _learning_rate(self) -> float:
        settings = self._config.learner
        warm = min(1.0, (self._optimizer_steps + 1) / max(settings.warmup_steps, 1))
        return settings.lr * warm

    # Weights.

    def connect(self, engines: list[Any], address: str, port: int, transfer: str) -> None:
        """Open this rank's end of the weight transfer."""
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

        from actors.weight_transfer import EngineClient, TrainedWeights, trainer_init_info

        workers = max(self._config.resources.rollout.gpus_per_engine, 1)
        self._client = EngineClient(engines, workers, self._config.timeouts.publish)
        self._transfer = WeightTransferTrainerFactory.trainer_init(
            trainer_init_info(
                transfer,
                address=address,
                port=port,
                rank=self._rank,
                workers=workers * len(engines),
            ),
            client=self._client,
            source=TrainedWeights(self._engine),
        )

    def publish(self, version: int) -> None:
        """Send the weights to every engine; they are then at `version`."""
        self._client.version = version
        self._transfer.send_weights()

    def logprobs(self, trajectories: Trajectories) -> list[float]:
        """Log-probability of each response token under the current weights, concatenated (R,)."""
        import torch

        from dps_ray.objective import token_logprobs

        result: list[float] = []
        for row in range(len(trajectories.advantages)):
            batch = pad(trajectories, np.array([row]))
            tokens = torch.from_numpy(batch.tokens).to(self._device)
            with torch.no_grad():
                logits = self._engine(input_ids=tokens, use_cache=False).logits[:, :-1]
            values = token_logprobs(logits, tokens[:, 1:], self._config.rollout.temperature)
            result += values[0][torch.from_numpy(batch.response[0, 1:]) > 0].tolist()
        return result

    # Checkpoints.

    def save(self, folder: Path) -> None:
        """Write `folder/model` (a Hugging Face folder) and `folder/learner` (DeepSpeed's own)."""
        from actors.weight_transfer import TrainedWeights

        self._engine.save_checkpoint(
            str(folder / "learner"),
            tag="state",
            client_state={"optimizer_steps": self._optimizer_steps},
            save_latest=False,
        )
        whole = {name: tensor.cpu() for name, tensor in TrainedWeights(self._engine)}
        if self._rank == 0:
            from transformers import AutoTokenizer

            self._engine.module.save_pretrained(folder / "model", state_dict=whole)
            AutoTokenizer.from_pretrained(self._model_path).save_pretrained(folder / "model")

    def load(self, folder: Path) -> None:
        """Read back what `save` wrote with the same number of ranks and ZeRO stage."""
        path, state = self._engine.load_checkpoint(str(folder / "learner"), tag="state")
        if path is None:
            raise EngineError(f"DeepSpeed found no checkpoint in {folder / 'learner'}")
        self._optimizer_steps = state["optimizer_steps"]


class _Totals:
    """Means over the response tokens of a batch, over all its micro-batches and ranks."""

    def __init__(self) -> None:
        self._sums: dict[str, Any] = {}  # of values, and of the tokens they are over
        self._grad_norms: list[float] = []

    def add_tokens(self, mask: Any, per_token: dict[str, Any]) -> None:
        import torch

        for name, values in per_token.items():
            both = torch.stack([(values.detach() * mask).double().sum(), mask.double().sum()])
            self._sums[name] = self._sums.get(name, 0.0) + both

    @property
    def stepped(self) -> bool:
        """Whether the weights have changed since the batch began."""
        return bool(self._grad_norms)

    def add_step(self, grad_norm: float) -> None:
        self._grad_norms.append(grad_norm)

    def reduced(self, lr: float) -> dict[str, float]:
        import torch

        sums = torch.stack(list(self._sums.values()))
        torch.distributed.all_reduce(sums)
        metrics = {
            name: total / tokens
            for name, (total, tokens) in zip(self._sums, sums.tolist(), strict=True)
        }
        return {
            **metrics,
            "actor/grad_norm": float(np.mean(self._grad_norms)),
            "actor/lr": lr,
        }


def _leave_out_the_shared_memory_extension() -> None:
    """DeepSpeed would compile a C++ extension at the first start on a CPU: 30 s, behind a lock file
    that a killed process leaves closed for good. Gloo alone serves ranks on one machine well."""
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
