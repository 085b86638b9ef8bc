"""verl: a dataset that chooses its own rows. `data.custom_cls.path=pkg://dps_ray.integrations.verl`, `.name=DPSDataset`.

StatefulDataLoader ──asks for a batch──> DPSDataset.take ──rows──> rollouts, rewards
        │                                     ^                          │
   data.pt holds its state                  report <─────────────────────┘

Rewards come back by `on_batch_end`, which verl's earlier trainers call (`main_ppo` of 0.7 and 0.8, `main_ppo_v0` of 0.9),
or by the replay buffer of `dps_ray.integrations.verl_v1`, with the trainers of 0.9.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from dps_ray.errors import ConfigError, FrameworkError
from dps_ray.integrations.rows import BY_TICK, RowSampler, column, packed, unpacked

try:
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset
except ImportError as error:
    raise FrameworkError(
        f"dps_ray.integrations.verl needs verl 0.7.1 or newer, which cannot be imported ({error}): pip install verl"
    ) from error

Mixin: Any = object
"""So that what follows may call methods of the class that it is mixed into."""

ROW = "dps_row"
"""The entry of `extra_info` that says which row a prompt is. Of a row's entries, verl carries `extra_info` to the rewards."""


def settings(config: Any, path: str, default: Any = None) -> Any:
    """Returns a value of the whole configuration that `config` is a part of, as plain Python."""
    found = OmegaConf.select(config._get_root(), path, default=default)
    return OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found


def options_of(config: Any) -> dict[str, Any]:
    """Returns what the user set as `+data.dps.NAME=VALUE`."""
    options = config.get("dps", None)
    return {} if options is None else dict(OmegaConf.to_container(options, resolve=True))


def sampler_over(dataset: Any, config: Any, options: Mapping[str, Any]) -> RowSampler:
    """Returns the sampler over the rows of a dataset that keeps them as a `datasets.Dataset` in `dataframe`.

    Raises:
        ConfigError: an option is wrong, or processes of the loader would ask for rows ahead of time.
    """
    if config.get("dataloader_num_workers", 0):
        raise ConfigError(
            f"data.dataloader_num_workers={config.dataloader_num_workers}: worker processes choose prompts before the "
            "rewards of those before them are known; write data.dataloader_num_workers=0"
        )
    group_size = options.get("group_size") or settings(config, "actor_rollout_ref.rollout.n")
    if group_size is None:
        raise ConfigError(
            "the number of responses to a prompt is not known; write +data.dps.group_size=8"
        )
    return RowSampler(
        len(dataset),
        lambda name: column(dataset.dataframe, name),
        group_size,
        options,
        seed=config.get("seed", None) or 0,
        batch=BY_TICK,
    )


def scored(batch: Any, accuracy: str | None) -> tuple[list[Any], list[float], list[float] | None]:
    """Returns the `extra_info` of each response of a `DataProto`, its reward, and its accuracy where a name is given."""
    infos = list(batch.non_tensor_batch["extra_info"])
    rewards = batch.batch["token_level_scores"].sum(dim=-1).tolist()
    if accuracy is None:
        return infos, rewards, None
    there = {
        name: values for name, values in batch.non_tensor_batch.items() if len(values) == len(infos)
    }
    extra = [{name: values[at] for name, values in there.items()} for at in range(len(infos))]
    return infos, rewards, accuracies_in(extra, accuracy)


def accuracies_in(extra: Iterable[Mapping[str, Any]], name: str) -> list[float]:
    """Returns an entry of what the reward function returned for each response.

    Raises:
        ConfigError: a response has no such entry.
    """
    found = list(extra)
    for each in found:
        if name not in each:
            raise ConfigError(
                f"data.dps.accuracy={name}: the reward function returned {', '.join(each) or 'no entries'}; name one of "
                "these, or leave it out"
            )
    return [float(each[name]) for each in found]


class ChoosesRows(Mixin):
    """Mixin for a dataset class of verl: `class Mine(ChoosesRows, MyDataset)`, with rows in `self.dataframe`.

    The training dataset takes as many rows as the loader asks for; which ones is for `PromptSampler` to say. The first
    dataset that is made with a configuration is the one to train on, and later ones, for validation, give the rows that
    they are asked for.
    """

    active: ClassVar["ChoosesRows | None"] = None
    """The training dataset of this process that was made last."""
    made_with: Any
    rows: RowSampler | None

    def __init__(self, *args: Any, config: Any, **kwargs: Any) -> None:
        super().__init__(*args, config=config, **kwargs)
        self.rows = None
        self.accuracy: str | None = None
        if ChoosesRows.active is not None and ChoosesRows.active.made_with is config:
            return
        options = options_of(config)
        self.accuracy = options.pop("accuracy", None)
        self._continues = _check_trainer(config)
        self.made_with = config
        self.rows = sampler_over(self, config, options)
        ChoosesRows.active = self

    def __getitems__(self, items: Sequence[int]) -> list[Any]:
        """Returns a batch of rows. torch's loader calls this where there is one."""
        if self.rows is None:
            return [self[item] for item in items]
        return [self._marked(row) for row in self.rows.take(len(items))]

    def _marked(self, row: int) -> dict[str, Any]:
        found: dict[str, Any] = self[row]
        return {**found, "extra_info": {**(found.get("extra_info") or {}), ROW: row}}

    def on_batch_end(self, batch: Any) -> None:
        """Takes in the rewards of a batch that was trained on, a `DataProto`."""
        if self.rows is not None:
            infos, rewards, accuracies = scored(batch, self.accuracy)
            self.rows.report([int(info[ROW]) for info in infos], rewards, accuracies)
            self.rows.tick()

    # StatefulDataLoader keeps these in data.pt, beside its own state.
    def state_dict(self) -> dict[str, bytes]:
        return {} if self.rows is None else packed(self.rows.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.rows is not None and state:
            self.rows.load_state_dict(unpacked(state), continues=self._continues)


class DPSDataset(ChoosesRows, RLHFDataset):
    """verl's own dataset, with rows chosen by `PromptSampler`."""


def _check_trainer(config: Any) -> bool:
    """Returns whether a resumed run continues the rollouts that were in flight.

    Raises:
        ConfigError: the trainer would report no rewards.
    """
    if not settings(config, "trainer.use_v1", False):
        if settings(config, "trainer.v1") is None and settings(
            config, "transfer_queue.enable", False
        ):
            raise ConfigError(
                "main_ppo_sync of verl 0.8 has no hook for rewards; run verl.trainer.main_ppo, or verl 0.9"
            )
        return False
    if settings(config, "trainer.v1.sampler.custom_sampler.name") is None:
        raise ConfigError(
            "the replay buffer reports no rewards; write\n"
            "  trainer.v1.sampler.custom_sampler.path=pkg://dps_ray.integrations.verl_v1\n"
            "  trainer.v1.sampler.custom_sampler.name=DPSReplayBuffer (DPSReplayBufferAsync for the asynchronous trainers)"
        )
    return bool(settings(config, "trainer.v1.trainer_mode", "sync") != "sync")
