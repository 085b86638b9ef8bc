"""slime: a data source that chooses prompts, and the function that tells it about rewards.

--data-source-path dps_ray.integrations.slime.DPSDataSource
--rollout-all-samples-process-path dps_ray.integrations.slime.observe

RolloutManager ──get_samples──> DPSDataSource.take ──groups──> generate, reward
                                     ^                                │
                                   report <──── observe(all groups) ──┘  filtered ones too; then a step closes
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dps_ray.errors import ConfigError, FrameworkError
from dps_ray.integrations.rows import BY_TICK, RowSampler
from dps_ray.integrations.state_file import read_state, write_state

try:
    from slime.rollout.data_source import RolloutDataSource, RolloutDataSourceWithBuffer
    from slime.utils.types import Sample
except ImportError as error:
    raise FrameworkError(
        f"dps_ray.integrations.slime needs slime 0.3, which cannot be imported ({error}); it comes from "
        "https://github.com/THUDM/slime, and the package slime of the index is another"
    ) from error

logger = logging.getLogger(__name__)

ROW = "dps_row"
"""The entry of a sample's metadata that says which prompt of the data it is. slime's `group_index` is a running number."""
OBSERVE = "dps_ray.integrations.slime.observe"


class DPSDataSource(RolloutDataSourceWithBuffer):
    """slime's data source, with prompts chosen by `PromptSampler`. Groups that a rollout aborted come first, as in slime.

    Options are the entry `dps` of the file at `--custom-config-path`, such as `dps: {method: dps_pooled, kinds: level}`.
    `kinds` and `key` name entries of the samples' metadata.

    Raises:
        ConfigError: an option cannot be used, there is no data, or no function reports rewards.
    """

    def __init__(self, args: Any) -> None:
        super().__init__(args)
        if self.dataset is None:
            raise ConfigError("there are no prompts to choose from; write --prompt-data FILE")
        if not getattr(args, "rollout_all_samples_process_path", None):
            raise ConfigError(
                f"rewards are not reported; write --rollout-all-samples-process-path {OBSERVE}"
            )
        self._all = list(self.dataset.origin_samples)
        self.rows = RowSampler(
            len(self._all),
            self._column,
            args.n_samples_per_prompt,
            getattr(args, "dps", None) or {},
            seed=args.rollout_seed,
            batch=BY_TICK,
        )

    def _column(self, name: str) -> list[Any]:
        for row, sample in enumerate(self._all):
            if name not in sample.metadata:
                raise ConfigError(
                    f"dps names {name!r}, which the metadata of prompt {row} lacks; it has {', '.join(sample.metadata)}"
                )
        return [sample.metadata[name] for sample in self._all]

    def get_samples(self, num_samples: int) -> list[list[Sample]]:
        """Returns groups: aborted ones of earlier rollouts, then those of the prompts that are chosen now."""
        groups: list[list[Sample]] = self._get_samples_from_buffer(num_samples)
        rows = self.rows.take(num_samples - len(groups))
        # slime gives the samples after its offset: here those are the chosen ones.
        self.dataset.samples, self.sample_offset = [self._all[row] for row in rows], 0
        try:
            chosen: list[list[Sample]] = RolloutDataSource.get_samples(self, len(rows))
        finally:
            self.dataset.samples, self.sample_offset = self._all, 0
        for row, group in zip(rows, chosen, strict=True):
            for sample in group:
                sample.metadata[ROW] = row
        return groups + chosen

    def _get_samples_from_buffer(self, num_samples: int) -> list[list[Sample]]:
        before = _rows_of(self.buffer)
        groups: list[list[Sample]] = super()._get_samples_from_buffer(num_samples)
        # A filter of --buffer-filter-path may have dropped some.
        self.rows.release(sorted(before - _rows_of(self.buffer) - _rows_of(groups)))
        return groups

    def observe(self, groups: Iterable[list[Any]]) -> None:
        """Takes in the finished groups of a rollout, those included that a filter dropped, and closes a step.

        Prompts whose groups were aborted are free again, unless slime continues them (`--partial-rollout`).
        """
        rows, rewards = [], []
        for group in groups:
            for response in group:
                # A response of several turns may be several samples; the last one has its reward.
                sample = response[-1] if isinstance(response, list) else response
                rows.append(int(sample.metadata[ROW]))
                rewards.append(_reward_of(sample, self.args))
        self.rows.report(rows, rewards)
        if not self.args.partial_rollout:
            self.rows.release()
        self.rows.tick()
        logger.info("prompts chosen by dps_ray: %s", self.rows.metrics())

    def save(self, rollout_id: int) -> None:
        super().save(rollout_id)
        write_state(_folder(self.args.save, rollout_id), self.rows.state_dict())

    def load(self, rollout_id: int | None = None) -> None:
        super().load(rollout_id)
        self.dataset.samples, self.sample_offset = self._all, 0
        if self.args.load is not None:
            state = read_state(_folder(self.args.load, rollout_id))
            if state is not None:
                self.rows.load_state_dict(state)


def observe(args: Any, all_samples: list[list[Any]], data_source: Any) -> None:
    """Tells the data source about the groups of a rollout. slime gives its method `get_samples` for the data source."""
    source = getattr(data_source, "__self__", data_source)
    if not isinstance(source, DPSDataSource):
        raise ConfigError(
            f"{OBSERVE} needs the data source that chose the prompts, not {type(source).__name__}; write "
            "--data-source-path dps_ray.integrations.slime.DPSDataSource"
        )
    source.observe(all_samples)


def _folder(checkpoints: str, rollout_id: int | None) -> Path:
    return Path(checkpoints) / "rollout" / f"dps_ray_{rollout_id}"


def _rows_of(groups: Iterable[list[Any]]) -> set[int]:
    firsts = (group[0][0] if isinstance(group[0], list) else group[0] for group in groups)
    return {first.metadata[ROW] for first in firsts if ROW in first.metadata}


def _reward_of(sample: Any, args: Any) -> float:
    """A sample's reward; NaN where its generation was aborted, or it was not scored."""
    if sample.status == Sample.Status.ABORTED or sample.reward is None:
        return float("nan")
    return float(sample.get_reward_value(args))
