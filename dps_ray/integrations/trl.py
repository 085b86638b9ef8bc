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
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from dps_ray.errors import ConfigError, FrameworkError, StaleError
from dps_ray.integrations.rows import RowSampler, column
from dps_ray.integrations.state_file import STATE_FILE, read_state, write_state
from dps_ray.sampler.prompt_sampler import PromptSampler

try:
    import torch
    import trl
    from datasets import Dataset
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
    from trl import GRPOTrainer
except ImportError as error:
    raise FrameworkError(
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
_OF_ONE_STEP = {"dps/effective_ratio", "dps/predicted_ratio", "dps/foretold_ratio", "dps/brier"}
_OF_ALL_STEPS = {"dps/uniform_ratio", "dps/distinct", "dps/coverage", "dps/failed", "dps/retaken"}

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
        dps: arguments of `PromptSampler`; `seed` is the trainer's unless it is given. Three more: `kinds` names the column that
            says what is alike, or an entry of one, such as `extra_info.level`. `key` names a column of distinct values by
            which a checkpoint knows the rows; without it they are known by their numbers, which must then stay the same.
            `accuracy` names the reward function that says whether a response is right, from 0 to 1; without it a response is
            right when its reward, TRL's weighted sum, is `threshold` (1) or more.

    Raises:
        ConfigError: an argument is wrong, or there are several reward functions and none is named.
        FrameworkError: this version of TRL has other methods than those that are extended here.
    """

    def __init__(self, *args: Any, dps: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        check_trainer(type(self))
        super().__init__(*args, **kwargs)
        self._dps = _Selection(self, dict(dps or {}))

    @property
    def prompt_sampler(self) -> PromptSampler:
        """The sampler of this process, which is the same in every other."""
        return self._dps.rows.sampler

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Extends TRL's method: these inputs, one for each response that this process generates, are replaced."""
        scored: dict[str, Any]
        if not self.model.training:
            scored = super()._generate_and_score_completions(inputs)
            return scored
        try:
            inputs = self._dps.choose(inputs, self.accelerator, self.state.global_step)
            scored = super()._generate_and_score_completions(inputs)
            if self._dps.taken:
                raise FrameworkError(
                    f"{type(self).__name__} generated responses without a call of _calculate_rewards, which brings their "
                    "rewards to the sampler; call it, or leave DPSMixin out"
                )
        finally:
            self._dps.give_back()
        return scored

    def _calculate_rewards(
        self,
        inputs: list[dict[str, Any]],
        prompts: list[Any],
        completions: list[Any],
        completion_ids_list: list[list[int]],
    ) -> Any:
        """Extends TRL's method: the rewards that it returns, of all processes, are reported."""
        by_function = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if self.model.training and self._dps.taken:
            self._dps.report(by_function, self.reward_weights, self._metrics["train"])
        return by_function

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Extends transformers' method. The sampler's file comes first, so that no checkpoint is whole without it."""
        if self.args.should_save:
            folder = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            path = Path(self._get_output_dir(trial=trial)) / folder
            write_state(path, self._dps.rows.state_dict())
        super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Extends transformers' method, which is called once where training resumes."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self._dps.resume(Path(checkpoint))


class DPSGRPOTrainer(DPSMixin, GRPOTrainer):
    """TRL's `GRPOTrainer` on the prompts that a `PromptSampler` selects; see `DPSMixin`.

    trainer = DPSGRPOTrainer(..., train_dataset=data, dps={"kinds": "level"})
    """


class _Selection:
    """What the mixin adds to a trainer, in one attribute.

    taken: rows whose responses are generated and scored now, the same in every process; else empty.
    """

    def __init__(self, trainer: Any, options: dict[str, Any]) -> None:
        self._accuracy = _accuracy_column(trainer.reward_func_names, options)
        self._data = trainer.train_dataset
        self._group_size = trainer.num_generations
        self.rows = _row_sampler(self._data, self._group_size, trainer.args.seed, options)
        self.taken: list[int] = []
        self._seconds = 0.0

    def choose(self, inputs: Sequence[Any], accelerator: Any, step: int) -> list[dict[str, Any]]:
        """Returns as many rows for this process, with the same columns."""
        start = time.perf_counter()
        here, first = len(inputs), len(inputs) * accelerator.process_index
        self.taken = self.rows.take(here * accelerator.num_processes // self._group_size)
        if accelerator.num_processes > 1:
            _check_agreement(self.taken, accelerator, step)
        # In TRL's order: the responses of a group are neighbours, and a border between processes may cut it.
        mine = [self.taken[i // self._group_size] for i in range(first, first + here)]
        distinct = list(dict.fromkeys(mine))
        # As torch's DataLoader fetches them, but each once: it may have images to decode.
        rows = dict(zip(distinct, self._data.__getitems__(distinct), strict=True))
        chosen = [{name: rows[row][name] for name in inputs[0]} for row in mine]
        self._seconds = time.perf_counter() - start
        return chosen

    def report(self, by_function: Any, weights: Any, noted: dict[str, list[float]]) -> None:
        """Takes in the rewards of what was taken, and notes metrics where TRL's `log` finds them.

        by_function: (responses of all processes, reward functions), NaN where a function does not apply.
        """
        start = time.perf_counter()
        found = by_function.detach().double().cpu().numpy()
        rewards = np.nansum(found * weights.double().cpu().numpy(), axis=1)
        rewards[np.isnan(found).all(axis=1)] = np.nan
        right = None if self._accuracy is None else found[:, self._accuracy].tolist()
        rows = [row for row in self.taken for _ in range(self._group_size)]
        self.rows.report(rows, rewards.tolist(), right)
        self.taken = []
        metrics = self.rows.metrics()
        for name in metrics.keys() & _OF_ONE_STEP:
            noted[name].append(metrics[name])
        for name in metrics.keys() & _OF_ALL_STEPS:
            noted[name] = [metrics[name]]
        noted["dps/seconds"].append(self._seconds + time.perf_counter() - start)

    def give_back(self) -> None:
        """Frees what was taken and not reported, as generating or scoring failed."""
        self.rows.release(self.taken)
        self.taken = []

    def resume(self, checkpoint: Path) -> None:
        """Goes on from the state in a checkpoint, or warns that it has none."""
        if (state := read_state(checkpoint)) is not None:
            self.rows.load_state_dict(state)
        else:
            warnings.warn(
                f"{checkpoint} has no {STATE_FILE}, as it was not saved by a trainer that selects prompts: the sampler "
                "begins without observations",
                RuntimeWarning,
                stacklevel=3,
            )


def _check_agreement(taken: Sequence[int], accelerator: Any, step: int) -> None:
    """Raises if another process took other rows, with which it would complete other groups."""
    digest = hashlib.blake2b(np.array(taken).tobytes(), digest_size=8).digest()
    own = torch.tensor([int.from_bytes(digest, "little") >> 1], device=accelerator.device)
    if bool((accelerator.gather(own) != own).any()):
        raise StaleError(
            f"at step {step} the processes chose different prompts. Each must have the same training data, arguments and "
            f"{STATE_FILE}; resume from a checkpoint that all of them can read"
        )


def check_trainer(trainer: type) -> None:
    """Warns where TRL has a version that this module was not tested with.

    Raises:
        FrameworkError: a method that `DPSMixin` extends is missing, or has other parameters.
    """
    after = trainer.__mro__[trainer.__mro__.index(DPSMixin) + 1 :]
    for name, parameters in EXTENDED.items():
        owner = next((each for each in after if name in vars(each)), None)
        found = None if owner is None else tuple(inspect.signature(vars(owner)[name]).parameters)
        if owner is None or found != parameters:
            raise FrameworkError(
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


def _row_sampler(data: Any, group_size: int, seed: int, options: Mapping[str, Any]) -> RowSampler:
    if not isinstance(data, Dataset):
        raise ConfigError(
            f"train_dataset is {type(data).__name__}: rows can only be chosen from a datasets.Dataset; load it without "
            "streaming=True"
        )
    if "group_size" in options:
        raise ConfigError("dps={'group_size': ...}: set num_generations in GRPOConfig instead")

    return RowSampler(len(data), partial(column, data), group_size, options, seed=seed)
