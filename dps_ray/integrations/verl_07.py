"""verl 0.7: its curriculum sampler, for datasets of your own.

data.sampler.class_path=pkg://dps_ray.integrations.verl_07 data.sampler.class_name=DPSCurriculumSampler

With verl's own dataset, `dps_ray.integrations.verl.DPSDataset` does the same in every version; verl 0.8 has no curriculum
sampler any more.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from dps_ray.errors import ConfigError, FrameworkError
from dps_ray.integrations.rows import packed, unpacked
from dps_ray.integrations.verl import options_of, sampler_over, scored

try:
    from verl.experimental.dataset.sampler import AbstractCurriculumSampler
except ImportError as error:
    raise FrameworkError(
        "dps_ray.integrations.verl_07 needs the curriculum sampler of verl 0.7, which 0.8 took out "
        f"({error}); write data.custom_cls.path=pkg://dps_ray.integrations.verl data.custom_cls.name=DPSDataset"
    ) from error

INFO = "extra_info."
STARTED = "batches_of_epoch"


class DPSCurriculumSampler(AbstractCurriculumSampler):
    """Gives the loader the rows that `PromptSampler` chooses, a batch at a time.

    Rewards come back with `extra_info`, so `key` must be an entry of that: `+data.dps.key=extra_info.index`, the default,
    is what verl's own data sets have.

    Raises:
        ConfigError: an option cannot be used.
        SamplerError: two rows have the same key.
    """

    def __init__(self, data_source: Any, data_config: Any) -> None:
        options = {"key": "extra_info.index", **options_of(data_config)}
        self._accuracy = options.pop("accuracy", None)
        self._key = options["key"].removeprefix(INFO)
        if not options["key"].startswith(INFO):
            raise ConfigError(
                f"data.dps.key={options['key']}: rewards come back with extra_info alone; name an entry of it, such as "
                "extra_info.index, or use data.custom_cls.name=DPSDataset, which needs no key"
            )
        self._size = data_config.get("gen_batch_size", None) or data_config.train_batch_size
        self._batches = len(data_source) // self._size
        self._started = 0
        self.rows = sampler_over(data_source, data_config, options)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[int]:
        while self._started < self._batches:
            self._started += 1
            yield from self.rows.take(self._size)
        self._started = 0

    def update(self, batch: Any) -> None:
        """Takes in the rewards of a batch that was trained on, a `DataProto`."""
        infos, rewards, accuracies = scored(batch, self._accuracy)
        self.rows.sampler.report(
            [info[self._key] for info in infos],
            [[reward] for reward in rewards],
            None if accuracies is None else [[accuracy] for accuracy in accuracies],
        )
        self.rows.tick()

    # StatefulDataLoader keeps these in data.pt.
    def state_dict(self) -> dict[str, Any]:
        return {**packed(self.rows.state_dict()), STARTED: self._started}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._started = int(state[STARTED])
        self.rows.load_state_dict(unpacked(state))
