"""A short real training with TRL, in this process or in several:  python -m tests.integrations.trl_run JSON

Prompts have a `level`, which says which of the responses to them are right, so that rewards depend on neither weights nor
random numbers unless `by_text` is set.
"""

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.modules["vllm"] = None  # type: ignore[assignment]  # TRL imports it where it can, for many seconds

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from dps_ray.integrations.trl import DPSGRPOTrainer

GROUP = 4
ROWS = 40


def data(rows: int = ROWS) -> Dataset:
    """Prompts that the tiny policy can read. Of level 0 no response is right, of 1 every other, of 2 all, by number."""
    prompts = [f"{row // 10}+{row % 10}=" for row in range(rows)]
    levels = [(0, 1, 1, 2)[row % 4] for row in range(rows)]
    return Dataset.from_dict({"prompt": prompts, "row": list(range(rows)), "level": levels})


class Rewards:
    """A reward function that notes the rows and rewards of every generation.

    by_text: rewards depend on what was generated.
    killed_at: before this generation is scored, the process is killed.
    """

    __name__ = "right"

    def __init__(self, by_text: bool = False, killed_at: int | None = None) -> None:
        self.by_text, self.killed_at = by_text, killed_at
        self.rows: list[list[int]] = []
        self.given: list[list[float | None]] = []

    def __call__(
        self,
        prompts: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        row: Sequence[int],
        level: Sequence[int],
        **_: Any,
    ) -> list[float | None]:
        assert [f"{r // 10}+{r % 10}=" for r in row] == list(prompts)
        if self.killed_at == len(self.rows):
            os.kill(os.getpid(), signal.SIGKILL)
        first = int(os.environ.get("RANK", "0")) * len(row)
        if self.by_text:
            given = [float(sum(ids) % 2) for ids in completion_ids]
        else:
            given = [float(of == 2 or (of == 1 and (first + i) % 2)) for i, of in enumerate(level)]
        self.rows.append(list(row))
        self.given.append(list(given))
        return list(given)

    def groups(self) -> list[tuple[list[int], np.ndarray]]:
        """Of each generation the rows, and the rewards (n, GROUP)."""
        found = []
        for rows, given in zip(self.rows, self.given, strict=True):
            keys = rows[::GROUP]
            assert rows == [key for key in keys for _ in range(GROUP)]
            found.append((keys, np.array(given, dtype=float).reshape(-1, GROUP)))
        return found


def config(folder: Path, **settings: Any) -> GRPOConfig:
    """6 prompts a generation, and what makes TRL small."""
    return GRPOConfig(
        **{
            "output_dir": str(folder),
            "max_steps": 4,
            "per_device_train_batch_size": 6 * GROUP,
            "num_generations": GROUP,
            "max_completion_length": 4,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "seed": 3,
            **settings,
        }
    )


def trainer(
    policy: Path,
    folder: Path,
    rewards: Any,
    kind: type[GRPOTrainer] = DPSGRPOTrainer,
    settings: dict[str, Any] | None = None,
    **arguments: Any,
) -> Any:
    """A trainer of this policy."""
    torch.set_num_threads(1)
    arguments = {"train_dataset": data(), "args": config(folder, **(settings or {})), **arguments}
    return kind(
        model=AutoModelForCausalLM.from_pretrained(policy),
        processing_class=AutoTokenizer.from_pretrained(policy),
        reward_funcs=rewards,
        **arguments,
    )


def trained(task: dict[str, Any], rank: int = 0) -> dict[str, Any]:
    """Trains, and returns the rows that this process rolled out, and their rewards."""
    rewards = Rewards(task["by_text"], task["killed_at"])
    made = trainer(
        Path(task["policy"]),
        Path(task["folder"]),
        rewards,
        settings=task["settings"],
        dps={"kinds": "level", "seed": task["seeds"][rank]},
    )
    made.train(resume_from_checkpoint=task["resume"])
    return {"rows": rewards.rows, "given": rewards.given}


def main(task: dict[str, Any]) -> None:
    """Trains, and writes what this process rolled out to `FOLDER/rank-R.json`."""
    rank = int(os.environ.get("RANK", "0"))
    (Path(task["folder"]) / f"rank-{rank}.json").write_text(json.dumps(trained(task, rank)))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
