"""verl 0.9: a replay buffer that tells `DPSDataset` about rewards.

trainer.v1.sampler.custom_sampler.path=pkg://dps_ray.integrations.verl_v1, .name=DPSReplayBuffer

Every finished group leaves the buffer once: with a batch, or discarded as stale, filtered, failed or surplus. Its rewards are
reported then, so in-flight prompts cannot leak.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

from dps_ray.errors import ConfigError, FrameworkError
from dps_ray.integrations.verl import ROW, ChoosesRows, Mixin, accuracies_in

try:
    import transfer_queue as tq
    from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync
except ImportError as error:
    raise FrameworkError(
        f"dps_ray.integrations.verl_v1 needs verl 0.9 with TransferQueue ({error}): pip install 'verl[verl-core]>=0.9'; "
        "with verl 0.7 and 0.8, data.custom_cls alone is enough"
    ) from error

TRAIN = "train"


class ReportsRewards(Mixin):
    """Mixin for a replay buffer of verl. `trainer.v1.sampler.sampler_kwargs` goes to the buffer's constructor, to which verl
    passes no settings of `algorithm.filter_groups` when the buffer is not its own."""

    synchronous: ClassVar[bool]

    def __init__(self, *, trainer_mode: str, sampler_kwargs: Any = None, **kwargs: Any) -> None:
        if (trainer_mode == "sync") != self.synchronous:
            right = DPSReplayBufferAsync if self.synchronous else DPSReplayBuffer
            raise ConfigError(
                f"trainer.v1.trainer_mode={trainer_mode} does not go with {type(self).__name__}; write "
                f"trainer.v1.sampler.custom_sampler.name={right.__name__}"
            )
        self._failed: list[int] = []
        given = {**kwargs, **(sampler_kwargs or {})}
        super().__init__(trainer_mode=trainer_mode, sampler_kwargs=sampler_kwargs, **given)

    def sample(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Returns verl's batch, once its rewards are reported; the sampler's metrics are added to verl's."""
        batch, metrics = super().sample(*args, **kwargs)
        if batch.partition_id == TRAIN:
            dataset = training_dataset()
            _report(dataset, batch.keys)
            self._release_failed(dataset)
            dataset.rows.tick()
            metrics.update(dataset.rows.metrics())
        return batch, metrics

    def _clear_groups(self, partition_id: str, uids: set[str]) -> None:
        """Discards groups, as verl does, after their rewards are reported."""
        if partition_id == TRAIN and uids:
            dataset = training_dataset()
            keys = [key for key in self.partitions[TRAIN] if key.split("_")[0] in uids]
            _report(dataset, keys)
            silent = uids - {key.split("_")[0] for key in keys}
            if silent and self.trainer_mode != "sync":
                # Asynchronous trainers keep the prompts themselves in the queue.
                data = tq.kv_batch_get(
                    keys=sorted(silent), partition_id=TRAIN, select_fields=["extra_info"]
                )
                self._failed += [_plain(info)[ROW] for info in data["extra_info"]]
        super()._clear_groups(partition_id, uids)

    def _release_failed(self, dataset: Any) -> None:
        """Frees prompts that failed without a response. Until the batch is complete they are in flight, as otherwise a
        prompt that always fails would be its own replacement."""
        rows, self._failed = self._failed, []
        dataset.rows.release(rows)
        if dataset.rows.sampler.in_flight:
            self._sync_metadata_from_transfer_queue()
            if not self.prompt_global_steps[TRAIN]:
                dataset.rows.release()  # the queue has no prompt left


class DPSReplayBuffer(ReportsRewards, ReplayBuffer):
    """For `trainer.v1.trainer_mode=sync`."""

    synchronous = True


class DPSReplayBufferAsync(ReportsRewards, ReplayBufferAsync):
    """For `trainer.v1.trainer_mode=colocate_async` and `separate_async`."""

    synchronous = False


def training_dataset() -> Any:
    """Returns the dataset whose rows are trained on.

    Raises:
        ConfigError: there is none.
    """
    if ChoosesRows.active is None:
        raise ConfigError(
            "no dataset chooses prompts; write data.custom_cls.path=pkg://dps_ray.integrations.verl "
            "data.custom_cls.name=DPSDataset"
        )
    return ChoosesRows.active


def _report(dataset: Any, keys: Iterable[str]) -> None:
    """Reports the responses under these keys, `{uid}_{session}_{index}`; the last one of a session has its reward."""
    last: dict[str, str] = {}
    for key in keys:
        session, index = key.rsplit("_", 1)
        if session not in last or int(index) > int(last[session].rsplit("_", 1)[1]):
            last[session] = key
    if not last:
        return
    fields = ["extra_info", "rm_scores", *(["extra_fields"] if dataset.accuracy else [])]
    try:
        data = tq.kv_batch_get(keys=list(last.values()), partition_id=TRAIN, select_fields=fields)
        scores = list(data["rm_scores"])
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"responses have no rewards when they leave the replay buffer ({error}); a colocated reward model scores them "
            "later: write reward.reward_model.enable_resource_pool=True, or use a reward function"
        ) from error
    rows = [int(_plain(info)[ROW]) for info in data["extra_info"]]
    accuracies = None
    if dataset.accuracy:
        extra = [_plain(each).get("reward_extra_info", {}) for each in data["extra_fields"]]
        accuracies = accuracies_in(extra, dataset.accuracy)
    dataset.rows.report(rows, [float(each.sum()) for each in scores], accuracies)


def _plain(value: Any) -> Any:
    """A value of the queue without its wrapper."""
    return getattr(value, "data", value)
