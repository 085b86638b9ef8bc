"""One rank of the learner: a DeepSpeed engine, trained on its share of each minibatch."""

import functools
import math
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

import numpy as np
import ray
from numpy.typing import NDArray

from actors import card
from actors.process import free_port, log_to
from dps_ray.config import Config
from dps_ray.durable import Manifest, Storage, Stored, checkpoint_folder
from dps_ray.errors import DPSError, NonFiniteError
from dps_ray.failpoints import failpoint
from dps_ray.objective.trajectories import Trajectories, micro_batches, minibatches, unpad
from dps_ray.weights import WeightsId

if TYPE_CHECKING:
    from actors.policy import Inputs  # imports torch

P = ParamSpec("P")
T = TypeVar("T")

"""DeepSpeed's name of a checkpoint within its folder; manifests say it (`deepspeed_tag`)."""


class Trained(NamedTuple):
    """A batch was trained on: metrics, and from when to when (Unix seconds, this node's clock)."""

    metrics: dict[str, float]
    began: float
    ended: float


def _logged(method: Callable[P, T]) -> Callable[P, T]:
    """The method; the traceback of an error that is not one of ours goes to this rank's log. The driver
    tells only the error."""

    @functools.wraps(method)
    def call(*arguments: P.args, **options: P.kwargs) -> T:
        try:
            return method(*arguments, **options)
        except DPSError:
            raise
        except Exception:
            traceback.print_exc()
            raise

    return call


@ray.remote(concurrency_groups={"files": 1})
class LearnerRank:
    """One rank. All ranks are called alike, since every pass, save and send is a collective.

    Args:
        epoch: the driver's; in the names of weights, and of what is written for a while.
    """

    def __init__(self, config: Config, model: str, transfer: str, epoch: int, rank: int):
        log_to(config.folder / "logs", f"learner-{rank}")
        self._config = config
        self._model_path = model
        self._transfer_backend = transfer
        self._transfer: Any = None
        self._epoch = epoch
        self._rank = rank
        self._ranks = config.resources.learner.ranks
        self._optimizer_steps = 0
        self._version = 0  # of the weights: the training step that made them
        self._files = ThreadPoolExecutor(1)
        self._saving: Future[list[Stored]] | None = None

    def address(self) -> tuple[str, int]:
        return ray.util.get_node_ip_address(), free_port()

    @_logged
    def start(self, address: str, port: int, storage: Storage, manifest: Manifest | None) -> None:
        """Join the process group, build the DeepSpeed engine, and load the state of a checkpoint. Without one,
        try whether a checkpoint can be written.

        Raises:
            CheckpointError: it cannot be read, or is of another ZeRO stage; or none could be written.
        """
        import os

        failpoint("learner.start", epoch=self._epoch, rank=self._rank)
        os.environ.update(
            RANK=str(self._rank),
            WORLD_SIZE=str(self._ranks),
            LOCAL_RANK="0",
            MASTER_ADDR=address,
            MASTER_PORT=str(port),
        )
        import deepspeed
        import torch

        from actors import learner_files
        from actors.policy import Policy

        self._on_gpu = self._config.resources.learner.gpus_per_rank > 0
        self._device = torch.device("cuda", 0) if self._on_gpu else torch.device("cpu")
        if not self._on_gpu:
            _leave_out_the_shared_memory_extension()
        card.bound_memory(self._config)
        deepspeed.init_distributed(dist_backend="nccl" if self._on_gpu else "gloo")
        settings = self._config.learner
        convert = manifest is not None and learner_files.needs_conversion(
            manifest, ranks=self._ranks, zero_stage=settings.zero_stage
        )
        self._policy = Policy(self._config, self._model_path, self._device)
        model = self._policy.load(settings.freeze_vision_tower, settings.lora)
        recompute = settings.gradient_checkpointing
        if self._on_gpu if recompute is None else recompute:
            model.gradient_checkpointing_enable()
        optimizer = torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=settings.lr,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=self._on_gpu,
        )
        self._engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=self._deepspeed_config(load_universal=convert)
        )
        self._reference = None
        if self._config.objective.kl_coef > 0 and settings.lora is None:
            self._reference = self._policy.load().eval().requires_grad_(False)
        if manifest is None:
            trial = checkpoint_folder(self._epoch, 0)
            learner_files.try_to_save(self._engine, self._policy.files, storage, trial)
        else:
            state = learner_files.load(
                self._engine,
                storage,
                manifest,
                epoch=self._epoch,
                convert=convert,
                timeout=self._config.timeouts.checkpoint,
            )
            self._optimizer_steps, self._version = state["optimizer_steps"], state["version"]
        card.leave_card(self._config, self._engine)

    def _deepspeed_config(self, load_universal: bool) -> dict[str, Any]:
        bfloat16, stage = self._config.model.dtype == "bfloat16", self._config.learner.zero_stage
        return {
            # Micro-batches vary in number; their boundaries are set by hand in `_step`.
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": self._config.learner.clip_norm,
            "zero_optimization": {"stage": stage},
            "zero_allow_untested_optimizer": True,  # torch's AdamW
            "bf16": {"enabled": bfloat16},
            # Sums of many micro-batches: in bfloat16 128 of them are 0.9% off. Stage 0 knows nothing else.
            **({"data_types": {"grad_accum_dtype": "fp32"}} if bfloat16 and stage > 0 else {}),
            "checkpoint": {"load_universal": load_universal},
            "steps_per_print": 10**9,
        }

    # Training.

    @_logged
    def train(self, trajectories: Trajectories, step: int) -> Trained:
        """Make the optimizer steps of one batch; metrics are means over its tokens and steps.

        Raises:
            NonFiniteError: a loss or gradient is NaN or infinite, and recovery.on_nonfinite=stop. All ranks
                raise it; the optimizer steps before it are made, and nothing is left of the one it is about.
        """
        failpoint("learner.train.before", step=step, rank=self._rank)
        began = time.time()
        card.take_card(self._config, self._engine)
        totals = _Totals()
        self._engine.train()
        cuts = self._minibatches(len(trajectories.advantages), step)
        trajectories = self._with_proximal(self._with_reference(trajectories), cuts)
        for cut in cuts:
            for number, rows in enumerate(cut, 1):
                if self._step(trajectories, rows, step, totals):
                    continue
                if self._config.recovery.on_nonfinite == "stop":
                    raise NonFiniteError(
                        f"step {step}, minibatch {number} of {len(cut)}: the loss or its gradient is NaN or "
                        "infinite; no optimizer step was made of it. recovery.on_nonfinite=skip leaves such "
                        "minibatches out"
                    )
        self._version = step
        card.leave_card(self._config, self._engine)
        card.give_back_memory(self._config)
        failpoint("learner.train.after", step=step, rank=self._rank)
        return Trained(totals.reduced(self._learning_rate()), began, time.time())

    def _minibatches(self, n: int, step: int) -> list[list[NDArray[np.int64]]]:
        """How a batch of n trajectories is cut, for each pass over it."""
        settings = self._config.learner
        return [
            minibatches(
                n, settings.minibatches, np.random.default_rng([self._config.seed, step, epoch])
            )
            for epoch in range(settings.epochs)
        ]

    def _with_proximal(
        self, trajectories: Trajectories, cuts: list[list[NDArray[np.int64]]]
    ) -> Trajectories:
        """The trajectories with the policy's log-probabilities before the batch's first update, as far as
        the objective wants them: the first minibatch's own forward pass still has them."""
        _, *later = [rows for cut in cuts for rows in cut]
        if self._config.objective.importance_cap is None or not later:
            return trajectories
        rows = np.unique(np.concatenate(later))
        return trajectories._replace(proximal=self._logprobs(self._engine, trajectories, rows))

    def _with_reference(self, trajectories: Trajectories) -> Trajectories:
        """The trajectories with the reference policy's log-probabilities, if there is one."""
        if self._config.objective.kl_coef == 0:
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
        """As `_logprobs`, of the start policy: the trained model without its adapters."""
        from actors.lora import without_adapters

        self._engine.eval()
        with without_adapters(self._engine.module):
            found = self._logprobs(self._engine, trajectories, rows)
        self._engine.train()
        return found

    def _logprobs(
        self, model: Any, trajectories: Trajectories, rows: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Log-probability of every response token of these trajectories, at its place among those of all of
        them; a collective."""
        import torch

        found = np.zeros_like(trajectories.logprobs)
        for packed in self._my_micro_batches(trajectories, rows):
            inputs = self._policy.inputs(trajectories, packed)
            # The first position, which nothing predicts, is never part of a response.
            here = torch.zeros_like(inputs.tensors.logprobs)
            with torch.no_grad():
                here[:, 1:] = self._policy.scores(model, inputs).logprobs
            unpad(here.cpu().numpy(), trajectories, packed, found)
        # Every rank has its share, and zeros elsewhere; with several passes it needs the others' too.
        everywhere = torch.from_numpy(found).to(self._device)
        torch.distributed.all_reduce(everywhere)
        return everywhere.cpu().numpy()

    def _my_micro_batches(
        self, trajectories: Trajectories, rows: NDArray[np.int64]
    ) -> list[NDArray[np.int64]]:
        """This rank's share of these rows, packed; as many packs as every other rank has."""
        budget = self._config.learner.max_tokens_per_micro_batch
        packs = micro_batches(trajectories.lengths[rows], budget, self._ranks)[self._rank]
        return [rows[packed] for packed in packs]

    def _step(self, trajectories: Trajectories, rows: Any, step: int, totals: "_Totals") -> bool:
        """One optimizer step on a minibatch; False if all ranks dropped it, since it is not finite."""
        import torch

        mine = self._my_micro_batches(trajectories, rows)
        size = {
            "minibatch_tokens": int(trajectories.response_lengths[rows].sum()),
            "minibatch_sequences": len(rows),
        }
        for group in self._engine.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        found = _Sums()
        for index, packed in enumerate(mine):
            self._engine.set_gradient_accumulation_boundary(index == len(mine) - 1)
            inputs = self._policy.inputs(trajectories, packed)
            loss = self._loss(inputs, size, found, first=not totals.stepped)
            if failpoint("learner.loss", step=step, rank=self._rank) or not torch.isfinite(loss):
                # All of the gradient is NaN then, and after the reduction that of every rank, by which
                # all know. (A loss that is not finite can have a gradient that is.)
                loss = loss * math.nan
            # DeepSpeed averages gradients over the ranks; the weights are already relative to the
            # whole minibatch, so the gradients are to be summed.
            self._engine.backward(loss * self._ranks)
        grad_norm = self._apply()
        if grad_norm is None:
            totals.dropped += 1
            return False
        self._optimizer_steps += 1
        totals.add_step(found, grad_norm)
        return True

    def _apply(self) -> float | None:
        """Make an optimizer step of the gradients, and return their norm before clipping.

        Unless that is NaN or infinite: then drop them, on all ranks alike, and return None. Under ZeRO
        and in bfloat16 DeepSpeed does so itself, as it does on an overflow.
        """
        unsharded_norm = self._unsharded_grad_norm()
        if self._engine.zero_optimization_stage() == 0 and not math.isfinite(unsharded_norm):
            self._engine.zero_grad()
            return None
        self._engine.step()
        if not self._engine.was_step_applied():
            return None
        return float(self._engine.get_global_grad_norm() or unsharded_norm)

    def _unsharded_grad_norm(self) -> float:
        """Norm before clipping under ZeRO-0, where DeepSpeed keeps none; else nothing."""
        import torch

        if self._engine.zero_optimization_stage() > 0:
            return math.nan
        grads = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(grads))

    def _loss(self, inputs: "Inputs", size: dict[str, int], sums: "_Sums", first: bool) -> Any:
        """The part of the minibatch's loss that this micro-batch contributes, a scalar tensor.

        Args:
            first: the batch has made no update yet.
        """
        from dps_ray.objective.grpo import grpo_loss_of

        objective, tensors = self._config.objective, inputs.tensors
        scores = self._policy.scores(self._engine, inputs, objective.entropy_coef > 0)
        loss, per_token = grpo_loss_of(scores, tensors, settings=objective, first=first, **size)
        sums.add(tensors.response[:, 1:], per_token)
        return loss

    def _learning_rate(self) -> float:
        settings = self._config.learner
        warm = min(1.0, (self._optimizer_steps + 1) / max(settings.warmup_steps, 1))
        return settings.lr * warm

    # Weights.

    @_logged
    def send(self, engines: list[Any] | None, address: str, port: int, weights: WeightsId) -> None:
        """Send the weights, which have this identity, to every engine.

        Args:
            engines: when they are others than before, for which the ranks meet them at `address:port`.

        Raises:
            TransferError: they did not arrive at all engines.
        """
        failpoint("learner.send", weights=str(weights), rank=self._rank)
        if engines is not None:
            self._connect(engines, address, port)
        self._transfer.send(weights)

    def _connect(self, engines: list[Any], address: str, port: int) -> None:
        """Have the next transfer go to these engines."""
        from actors import learner_files
        from actors.engine_client import EngineClient
        from actors.guarded_transfer import GuardedTransfer
        from actors.weight_transfer import TrainedWeights, trainer_init_info

        if self._transfer is not None:
            self._transfer.close()
        workers = max(int(self._config.resources.rollout.gpus_per_engine), 1)
        client = EngineClient(engines, workers, self._config.timeouts.publish)
        info = trainer_init_info(
            self._transfer_backend,
            address=address,
            port=port,
            rank=self._rank,
            workers=workers * len(engines),
        )
        self._transfer = GuardedTransfer(
            info, client, TrainedWeights(self._engine, learner_files.whole_weights)
        )

    def logprobs(self, trajectories: Trajectories) -> list[float]:
        """Log-probability of each response token under the current weights, concatenated (R,)."""
        import torch

        result: list[float] = []
        for row in range(len(trajectories.advantages)):
            inputs = self._policy.inputs(trajectories, np.array([row]))
            with torch.no_grad():
                values = self._policy.scores(self._engine, inputs).logprobs
            result += values[0][inputs.tensors.response[0, 1:] > 0].tolist()
        return result

    # Checkpoints.

    @_logged
    def save(self, storage: Storage, folder: str) -> None:
        """Write the files of a checkpoint. They are not durable yet: see `saved`.

        Raises:
            CheckpointError: a rank could not write; all raise it.
        """
        from actors import learner_files

        state = {"optimizer_steps": self._optimizer_steps, "version": self._version}
        adopt = learner_files.write(self._engine, self._policy.files, state, storage, folder)
        self._saving = self._files.submit(adopt)

    @ray.method(concurrency_group="files")
    @_logged
    def saved(self) -> list[Stored]:
        """The files of this rank's last `save`, once they are durable. The rank may train meanwhile.

        Raises:
            CheckpointError: one could not be made durable.
        """
        assert self._saving is not None, "asked before anything was saved"
        return self._saving.result()


class _Sums:
    """Of values over the response tokens of a minibatch, on this rank; what is named `..._max` has its largest."""

    def __init__(self) -> None:
        # By name a tensor (2,) float64: of values, and how many tokens.
        self.of: dict[str, Any] = {}
        self.largest: dict[str, Any] = {}

    def add(self, mask: Any, per_token: dict[str, Any]) -> None:
        import torch

        for name, values in per_token.items():
            masked = (values.detach() * mask).double()
            if name.endswith("_max"):
                self.largest[name] = torch.maximum(
                    masked.max(), self.largest.get(name, masked.max())
                )
            else:
                both = torch.stack([masked.sum(), mask.double().sum()])
                self.of[name] = self.of.get(name, 0.0) + both


class _Totals:
    """Means over the response tokens of the minibatches of a batch that made a step, over all ranks."""

    def __init__(self) -> None:
        self.dropped = 0  # minibatches
        self._sums: dict[str, Any] = {}
        self._largest: list[dict[str, Any]] = []
        self._grad_norms: list[float] = []

    @property
    def stepped(self) -> bool:
        """Whether the weights have changed since the batch began."""
        return bool(self._grad_norms)

    def add_step(self, found: _Sums, grad_norm: float) -> None:
        self._grad_norms.append(grad_norm)
        for name, both in found.of.items():
            self._sums[name] = self._sums.get(name, 0.0) + both
        self._largest.append(found.largest)

    def reduced(self, lr: float) -> dict[str, float]:
        import torch

        metrics = {"actor/lr": lr, "actor/nonfinite_minibatches": float(self.dropped)}
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
        return {**metrics, "actor/grad_norm": float(np.mean(self._grad_norms))}


def _leave_out_the_shared_memory_extension() -> None:
    """DeepSpeed would compile a C++ extension at the first start on a CPU: 30 s, behind a lock file
    that a killed process leaves closed for good. Gloo alone serves ranks on one machine well."""
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
