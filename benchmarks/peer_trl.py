"""The other side of `benchmarks/peer.py` and `benchmarks/trl.py`, for a Python that has TRL. It imports nothing of this
project, but for `dps_ray.integrations.trl` where prompts are to be selected.

The only argument is the task as JSON. Prints, as its last line, seconds, tokens and what TRL logged of each step, and the
accuracy on test prompts where there are any.
"""

import itertools
import json
import sys
import time
from typing import Any

import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

task = json.loads(sys.argv[1])
torch.set_num_threads(task["threads"])
tokens = [0]  # by step
ends = [0.0]


def reward(
    completions: list[Any], completion_ids: list[list[int]], truth: list[str], **_: Any
) -> list[float]:
    tokens[-1] += sum(map(len, completion_ids))
    texts = [each if isinstance(each, str) else each[0]["content"] for each in completions]
    return [float(text.strip() == right) for text, right in zip(texts, truth, strict=True)]


class Clock(TrainerCallback):
    """A step here is as many optimizer steps as there are minibatches in a batch."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        ends[0] = time.perf_counter()

    def on_step_end(self, arguments: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % task["minibatches"] == 0:
            ends.append(time.perf_counter())
            tokens.append(0)


# On a GPU TRL generates with vLLM in its own process, on half of the card as the engine here.
on_gpu = {"bf16": True, "gradient_checkpointing": True, "use_vllm": True, "vllm_mode": "colocate"}
on_gpu |= {"vllm_gpu_memory_utilization": 0.425}
on_cpu = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False}
device: dict[str, Any] = on_gpu if task["on_gpu"] else on_cpu
dtype = torch.bfloat16 if task["on_gpu"] else torch.float32
responses = task["batch_size"] * task["group_size"]


def prompts(path: str) -> Any:
    data = load_dataset("parquet", data_files=path, split="train")
    return data.map(
        lambda row: {
            "prompt": row["prompt"],
            "truth": row["reward_model"]["ground_truth"],
            "level": row["extra_info"]["level"],
        },
        remove_columns=[name for name in data.column_names if name != "prompt"],
    )


kind, selection = GRPOTrainer, {}
if task["dps"] is not None:
    from dps_ray.integrations.trl import DPSGRPOTrainer

    kind, selection = DPSGRPOTrainer, {"dps": task["dps"]}
trainer = kind(
    model=AutoModelForCausalLM.from_pretrained(task["model"], dtype=dtype),
    processing_class=AutoTokenizer.from_pretrained(task["model"]),
    reward_funcs=reward,
    train_dataset=prompts(task["prompts"]),
    eval_dataset=prompts(task["test"]) if task["test"] else None,
    callbacks=[Clock()],
    args=GRPOConfig(
        output_dir=task["folder"],
        **device,
        max_steps=task["steps"] * task["minibatches"],
        per_device_train_batch_size=responses // task["minibatches"],
        steps_per_generation=task["minibatches"],
        per_device_eval_batch_size=task["test_samples"] * 110,
        num_generations_eval=task["test_samples"],
        num_generations=task["group_size"],
        max_completion_length=task["max_response_length"],
        temperature=1.0,
        learning_rate=task["lr"],
        lr_scheduler_type="constant",
        adam_beta1=task["betas"][0],
        adam_beta2=task["betas"][1],
        max_grad_norm=task["clip_norm"],
        epsilon=task["clip_low"],
        epsilon_high=task["clip_high"],
        beta=0.0,
        loss_type="dapo",
        logging_steps=task["minibatches"],
        save_strategy="no",
        seed=task["seed"],
        report_to="none",
        disable_tqdm=True,
    ),
    **selection,
)
trainer.train()
seconds = [b - a for a, b in itertools.pairwise(ends)]
found = {"seconds": seconds, "tokens": tokens[: len(seconds)]}
found["logged"] = [step for step in trainer.state.log_history if "loss" in step]
if task["test"]:
    found["accuracy"] = trainer.evaluate()["eval_reward"]
print(json.dumps(found))
