"""TRL: `DPSGRPOTrainer`, a `GRPOTrainer` that trains on the prompts that a `PromptSampler` selects.

    loader ──rows──> _generate_and_score_completions ──other rows──> TRL generates and scores
                              │ take(n)                                     │ rewards, gathered by TRL
                              └──────────── PromptSampler <── report ── _calculate_rewards

TRL's loader only says when prompts are needed, and how many. They are chosen when responses are about to be generated, so
that all rewards so far count. Every process holds the same sampler, gives it the same rewards, and so chooses the same
prompts.
"""

import hashlib
import inspect
import time
import warnings
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from dps_ray.errors import ConfigError, StaleError
from dps_ray.integrations.dataset_rows import STATE_FILE, DatasetRows
from dps_ray.sampler.prompt_sampler import PromptSampler

try:
    import torch
    import trl
    from datasets import Dataset
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
    from trl import GRPOTrainer
except ImportError as error:
    raise ImportError(
        f'dps_ray.integrations.trl needs TRL: pip install "dps_ray[trl]" ({error})'
    ) from error

TESTED = ("1.14", "1.15", "1.16")
"""Versions of TRL that this module was tested with."""

EXTENDED = {
    "_generate_and_score_completions": ("self", "inputs"),
    "_calculate_rewards": ("self", "inputs", "prompts", "completions", "completion_ids_list"),
}
"""Methods of the trainer that are extended, with the parameters that they must have."""

# Means over the steps between two logs; of the others the last value is logged.
_OF_ONE_STEP = ("effective_ratio", "predicted_ratio", "foretold_ratio", "brier")
_OF_ALL_STEPS = ("uniform_ratio", "distinct", "coverage", "failed", "retaken")

if TYPE_CHECKING:
    _Trainer: TypeAlias = GRPOTrainer
else:
    _Trainer = object


class DPSMixin(_Trainer):
    """Selects the prompts of a `GRPOTrainer`, of a class derived from it, or of a trainer with the same methods:

        class MyDPSTrainer(DPSMixin, MyGRPOTrainer): ...

    Training data must have a length: from an `IterableDataset` no row can be chosen. An epoch has as many steps as before,
    but which rows come in it, and how often, is up to the sampler. Evaluation is untouched.

    Args:
        args, kwargs: of the trainer.
        dps: arguments of `PromptSampler`. `keys` and `kinds` may be names of columns; without `keys` a prompt is known by
            the number of its row. `seed` is that of the trainer unless given. One more, `accuracy`, names the reward
            function that says whether a response is right, from 0 to 1. Without it a response is right when its reward,
            TRL's weighted sum, is `threshold` (1) or more.

    Raises:
        ConfigError: an argument is wrong, there are several reward functions and none is named, or this version of TRL
            has other methods than those that are extended here.
    """

    def __init__(self, *args: Any, dps: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        check_trainer(type(self))
        super().__init__(*args, **kwargs)
        options = dict(dps or {})
        self._accuracy = _accuracy_column(self.reward_func_names, options)
        self._rows = _rows(self, options)
        self._taken: list[Hashable] = []
        self._seconds = 0.0

    @property
    def prompt_sampler(self) -> PromptSampler:
        """The sampler of this process, which is the same in every other."""
        return self._rows.sampler

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Extends TRL's method: these inputs, one for each response that this process generates, are replaced."""
        if not self.model.training:
            evaluated: dict[str, Any] = super()._generate_and_score_completions(inputs)
            return evaluated
        start = time.perf_counter()
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        here, group = len(inputs), self.num_generations
        self._taken = self._rows.sampler.take(world * here // group)
        try:
            self._check_agreement()
            # In TRL's order: the responses of a group are neighbours, and a border between processes may cut it.
            mine = [self._taken[i // group] for i in range(rank * here, (rank + 1) * here)]
            inputs = self._rows.read(mine, list(inputs[0]))
            self._seconds = time.perf_counter() - start
            scored: dict[str, Any] = super()._generate_and_score_completions(inputs)
            if self._taken:
                raise ConfigError(
                    f"{type(self).__name__} generated responses without a call of _calculate_rewards, which brings their "
                    "rewards to the sampler; call it, or leave DPSMixin out"
                )
        finally:
            self._rows.sampler.release(self._taken)
            self._taken = []
        return scored

    def _check_agreement(self) -> None:
        """Raises if another process chose other prompts, with which it would complete other groups."""
        if self.accelerator.num_processes == 1:
            return
        digest = hashlib.blake2b(repr(self._taken).encode(), digest_size=8).digest()
        own = torch.tensor([int.from_bytes(digest, "little") >> 1], device=self.accelerator.device)
        every = self.accelerator.gather(own)
        if bool((every != own).any()):
            raise StaleError(
                f"at step {self.state.global_step} the processes chose different prompts. Each must have the same training "
                f"data, arguments and {STATE_FILE}; resume from a checkpoint that all of them can read"
            )

    def _calculate_rewards(
        self,
        inputs: list[dict[str, Any]],
        prompts: list[Any],
        completions: list[Any],
        completion_ids_list: list[list[int]],
    ) -> Any:
        """Extends TRL's method: the rewards that it returns, of all processes, are reported."""
        by_function = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if self.model.training and self._taken:
            start = time.perf_counter()
            self._report(by_function)
            self._note()
            self._seconds += time.perf_counter() - start
            self._metrics["train"]["dps/seconds"].append(self._seconds)
        return by_function

    def _report(self, by_function: Any) -> None:
        """by_function: (responses of all processes, reward functions), NaN where a function does not apply."""
        found = by_function.detach().double().cpu().numpy()
        rewards = np.nansum(found * self.reward_weights.double().cpu().numpy(), axis=1)
        rewards[np.isnan(found).all(axis=1)] = np.nan
        groups = (len(self._taken), self.num_generations)
        right = None if self._accuracy is None else found[:, self._accuracy].reshape(groups)
        self._rows.sampler.report(self._taken, rewards.reshape(groups), right)
        self._taken = []

    def _note(self) -> None:
        """Puts the sampler's metrics where TRL's `log` finds them."""
        now, noted = self._rows.sampler.metrics(), self._metrics["train"]
        for name in now.keys() & set(_OF_ONE_STEP):
            noted[f"dps/{name}"].append(now[name])
        for name in now.keys() & set(_OF_ALL_STEPS):
            noted[f"dps/{name}"] = [now[name]]

    # --- checkpoints ------------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Extends transformers' method. The sampler's file comes first, so that no checkpoint is whole without it."""
        if self.args.should_save:
            folder = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            self._rows.save(Path(self._get_output_dir(trial=trial)) / folder)
        super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Extends transformers' method, which is called once where training resumes."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self._rows.load(Path(checkpoint)) is None:
            warnings.warn(
                f"{checkpoint} has no {STATE_FILE}, as it was not saved by a trainer that selects prompts: the sampler "
                "begins without observations",
                RuntimeWarning,
                stacklevel=2,
            )


class DPSGRPOTrainer(DPSMixin, GRPOTrainer):
    """TRL's `GRPOTrainer` on the prompts that a `PromptSampler` selects; see `DPSMixin`.

    trainer = DPSGRPOTrainer(..., train_dataset=data, dps={"kinds": "level"})
    """


def check_trainer(trainer: type) -> None:
    """Warns where TRL has a version that this module was not tested with.

    Raises:
        ConfigError: a method that `DPSMixin` extends is missing, or has other parameters.
    """
    after = trainer.__mro__[trainer.__mro__.index(DPSMixin) + 1 :]
    for name, parameters in EXTENDED.items():
        owner = next((each for each in after if name in vars(each)), None)
        found = None if owner is None else tuple(inspect.signature(vars(owner)[name]).parameters)
        if owner is None or found != parameters:
            raise ConfigError(
                f"{trainer.__name__}, with trl {trl.__version__}, has no method {name}({', '.join(parameters)})"
                + ("" if owner is None else f"; that of {owner.__name__} is {name}{found}")
                + f". Install a version that this was tested with: {', '.join(TESTED)}"
            )
    if ".".join(trl.__version__.split(".")[:2]) not in TESTED:
        warnings.warn(
            f"trl {trl.__version__}: dps_ray was tested with {', '.join(TESTED)}. The methods that it extends are there, "
            "but check that the metric dps/effective_ratio agrees with 1 - frac_reward_zero_std",
            RuntimeWarning,
            stacklevel=3,
        )


def _accuracy_column(names: Sequence[str], options: dict[str, Any]) -> int | None:
    """Takes `accuracy` out of the options, and returns which reward function it names; None: none."""
    name = options.pop("accuracy", None)
    if name is not None and list(names).count(name) != 1:
        raise ConfigError(
            f"dps={{'accuracy': {name!r}}}: name one reward function of {', '.join(names)}"
        )
    if name is None and len(names) > 1 and not options.keys() & {"threshold", "states"}:
        raise ConfigError(
            f"which response is right? There are {len(names)} reward functions ({', '.join(names)}). Name the one that "
            f"says so, dps={{'accuracy': {names[0]!r}}}, or write from which weighted sum on a response is right, "
            "dps={'threshold': 1.0}, or that rewards which vary are worth their rollouts, dps={'states': 'variation'}"
        )
    return None if name is None else list(names).index(name)


def _rows(trainer: Any, options: dict[str, Any]) -> DatasetRows:
    data = trainer.train_dataset
    if not isinstance(data, Dataset):
        raise ConfigError(
            f"train_dataset is {type(data).__name__}: rows can only be chosen from a datasets.Dataset; load it without "
            "streaming=True"
        )
    if "group_size" in options:
        raise ConfigError("dps={'group_size': ...}: set num_generations in GRPOConfig instead")
    return DatasetRows(data, trainer.num_generations, **{"seed": trainer.args.seed, **options})
