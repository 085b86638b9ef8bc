"""SkyRL: its trainer with prompts chosen by `PromptSampler`. An experiment's `get_trainer` returns it.

StatefulDataLoader ──asks for a batch──> ChosenRows.take ──rows──> generate ──rewards──> report
        │                                                                                     │
   data.pt holds its state                              postprocess_generator_output: a step closes
"""

from collections.abc import Mapping
from typing import Any

from dps_ray.errors import ConfigError, FrameworkError
from dps_ray.integrations.dataset import ChosenRows
from dps_ray.integrations.rows import BY_TICK, RowSampler, column

try:
    from skyrl.train.trainer import RayPPOTrainer
except ImportError as error:
    raise FrameworkError(
        f"dps_ray.integrations.skyrl needs SkyRL 0.3 (skyrl.train), which cannot be imported ({error}); it comes from "
        "https://github.com/NovaSky-AI/SkyRL"
    ) from error


Mixin: Any = object
"""So that what follows may call methods of the class that it is mixed into."""


class ChoosesPrompts(Mixin):
    """Mixin for a trainer of SkyRL that generates batch by batch: `class Mine(ChoosesPrompts, MyTrainer)`.

    dps: arguments of `PromptSampler`. `kinds` and `key` name columns of the training data.

    Raises:
        ConfigError: an option cannot be used, or the loader's processes would ask for prompts ahead of time.
    """

    train_dataset: Any

    def __init__(self, *args: Any, dps: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        self._options = dict(dps or {})
        self._row_of: dict[str, int] = {}
        super().__init__(*args, **kwargs)

    def _build_train_dataloader_and_compute_training_steps(self) -> None:
        if any(kind.__name__ == "FullyAsyncRayPPOTrainer" for kind in type(self).__mro__):
            raise ConfigError(
                "SkyRL's fully asynchronous trainer trains on each prompt once an epoch, in the order of its loader, and stops "
                "when one comes again; choose prompts with the synchronous trainer, trainer.fully_async.enabled=false"
            )
        cfg, dataset = self.cfg, self.train_dataset
        if cfg.data.dataloader.num_workers != 0:
            raise ConfigError(
                f"data.dataloader.num_workers={cfg.data.dataloader.num_workers}: worker processes choose prompts before the "
                "rewards of those before them are known; write data.dataloader.num_workers=0"
            )
        rows = RowSampler(
            len(dataset),
            lambda name: column(dataset.dataframe, name),
            cfg.generator.n_samples_per_prompt,
            self._options,
            seed=cfg.trainer.seed,
            batch=BY_TICK,
        )
        self.train_dataset = ChosenRows(dataset, rows, self._note)
        super()._build_train_dataloader_and_compute_training_steps()

    def _note(self, item: Any, row: int) -> Any:
        """Notes the row of a prompt by the uid that SkyRL gives it."""
        *_, uid = item
        self._row_of[uid] = row
        return item

    async def generate(self, input_batch: Any) -> Any:
        """Returns what SkyRL generates, once its rewards are reported: before groups are filtered or replaced."""
        output = await super().generate(input_batch)
        found = responses_of(input_batch, output)
        rows = self.train_dataset.rows
        rows.report([self._row_of[uid] for uid, _ in found], [reward for _, reward in found])
        rows.release()  # prompts that SkyRL cut off the batch, so that it divides evenly
        self._row_of = {}
        return output

    def postprocess_generator_output(self, *args: Any, **kwargs: Any) -> Any:
        """Closes a step, as SkyRL calls this once for each step of the policy."""
        self.train_dataset.rows.tick()
        self.all_metrics.update(self.train_dataset.rows.metrics())
        return super().postprocess_generator_output(*args, **kwargs)


class DPSTrainer(ChoosesPrompts, RayPPOTrainer):
    """SkyRL's own trainer, with prompts chosen by `PromptSampler`."""


def responses_of(input_batch: Any, output: Any) -> list[tuple[str, float]]:
    """Returns the uid of the prompt of each response, and its reward. Of a response in steps, the last one has its reward."""
    ids = output.get("trajectory_ids") or input_batch["trajectory_ids"]
    ends = output.get("is_last_step") or [True] * len(ids)
    return [
        (each.instance_id, float(sum(reward) if isinstance(reward, list) else reward))
        for each, reward, is_last in zip(ids, output["rewards"], ends, strict=True)
        if is_last
    ]
