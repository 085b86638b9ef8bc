"""SkyRL: its trainer with prompts chosen by `PromptSampler`. An experiment's `get_trainer` returns it.

StatefulDataLoader ──asks for a batch──> ChosenPrompts.take ──rows──> generate ──rewards──> report
        │                                                                                     │
   data.pt holds its state                              postprocess_generator_output: a step closes
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dps_ray.errors import ConfigError, FrameworkError
from dps_ray.integrations.rows import BY_TICK, RowSampler, column

try:
    from skyrl.train.trainer import RayPPOTrainer
except ImportError as error:
    raise FrameworkError(
        f"dps_ray.integrations.skyrl needs SkyRL 0.3 (skyrl.train), which cannot be imported ({error}); it comes from "
        "https://github.com/NovaSky-AI/SkyRL"
    ) from error


class ChosenPrompts:
    """A dataset of SkyRL whose batches are of rows that a sampler chooses."""

    def __init__(self, dataset: Any, rows: RowSampler) -> None:
        self.dataset, self.rows = dataset, rows
        self.row_of: dict[str, int] = {}
        """Rows in flight, by the uid that SkyRL gives a prompt."""

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> Any:
        return self.dataset[row]

    def __getitems__(self, asked: Sequence[int]) -> list[Any]:
        """Returns as many rows as are asked for. torch's loader calls this where there is one."""
        rows = self.rows.take(len(asked))
        found = [self.dataset[row] for row in rows]
        self.row_of.update({uid: row for (*_, uid), row in zip(found, rows, strict=True)})
        return found

    def collate_fn(self, items: list[Any]) -> Any:
        return self.dataset.collate_fn(items)

    # StatefulDataLoader keeps these in data.pt.
    def state_dict(self) -> dict[str, Any]:
        return self.rows.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rows.load_state_dict(state)
        self.row_of = {}


class ChoosesPrompts:
    """Mixin for a trainer of SkyRL that generates batch by batch: `class Mine(ChoosesPrompts, MyTrainer)`.

    dps: arguments of `PromptSampler`. `kinds` and `key` name columns of the training data.

    Raises:
        ConfigError: an option cannot be used, or the loader's processes would ask for prompts ahead of time.
    """

    def __init__(self, *args: Any, dps: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        self._options = dict(dps or {})
        super().__init__(*args, **kwargs)

    def _build_train_dataloader_and_compute_training_steps(self) -> None:
        cfg, dataset = self.cfg, self.train_dataset  # type: ignore[has-type]
        if cfg.data.dataloader.num_workers:
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
        self.train_dataset = ChosenPrompts(dataset, rows)
        super()._build_train_dataloader_and_compute_training_steps()  # type: ignore[misc]

    async def generate(self, input_batch: Any) -> Any:
        """Returns what SkyRL generates, once its rewards are reported: before groups are filtered or replaced."""
        output = await super().generate(input_batch)  # type: ignore[misc]
        found = responses_of(input_batch, output)
        chosen = self.train_dataset
        chosen.rows.report(
            [chosen.row_of[uid] for uid, _ in found], [reward for _, reward in found]
        )
        chosen.rows.release()  # prompts that SkyRL cut off the batch, so that it divides evenly
        chosen.row_of = {}
        return output

    def postprocess_generator_output(self, *args: Any, **kwargs: Any) -> Any:
        """Closes a step, as SkyRL calls this once for each step of the policy."""
        self.train_dataset.rows.tick()
        self.all_metrics.update(self.train_dataset.rows.metrics())  # type: ignore[attr-defined]
        return super().postprocess_generator_output(*args, **kwargs)  # type: ignore[misc]


class DPSTrainer(ChoosesPrompts, RayPPOTrainer):  # type: ignore[misc]
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
