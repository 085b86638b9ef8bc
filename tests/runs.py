"""Small real runs of the main job: how tests start them, and how they compare how they ended."""

import os
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from dps_ray.durable import Storage, newest_valid
from pipelines.grpo_dps import main
from pipelines.monitoring.run_log import read_metrics
from pipelines.training.checkpoint import model_folder
from tests.faults.beliefs_run import beliefs_in
from tests.warm.cluster import joined

TWO_OF_EVERYTHING = (
    "resources.beliefs.shards=2",
    "resources.rollout.engines=2",
    "resources.learner.ranks=2",
    "resources.verifiers.workers=2",
    "learner.zero_stage=2",
    "objective.kl_coef=0.01",
    "objective.entropy_coef=0.001",
    "probe.every=2",
    "probe.prompts=8",
)


def arguments(folder, policy, chains, *overrides):
    """Of `python -m pipelines.grpo_dps`, for three steps of a run that takes seconds."""
    return [
        "--config=arithmetic",
        "method=dps",
        f"folder={folder}",
        f"model.path={policy}",
        f"data.train={chains[0]}",
        f"data.test={chains[1]}",
        "loop.batch_size=12",
        "loop.steps=3",
        "loop.filter_groups=false",
        "rollout.group_size=4",
        "rollout.threads=1",
        "learner.threads=1",
        "learner.lr=1e-4",
        "learner.minibatches=2",
        "learner.epochs=1",
        "probe.every=0",
        "checkpoint.every=2",
        *overrides,
    ]


def small_settings(policy, chains):
    """The same three steps as `Config.load("arithmetic", ...)` takes them."""
    return {
        "method": "dps",
        "model": {"path": str(policy)},
        "data": {"train": str(chains[0]), "test": str(chains[1])},
        "loop": {"batch_size": 12, "steps": 3, "filter_groups": False},
        "rollout": {"group_size": 4, "threads": 1},
        "learner": {"threads": 1, "lr": 1e-4, "minibatches": 2, "epochs": 1},
        "probe": {"every": 0},
        "checkpoint": {"every": 2},
    }


def run(folder, policy, chains, *overrides) -> int:
    """The exit code of a run that joins the tests' Ray, unless RAY_ADDRESS names another."""
    with nullcontext() if "RAY_ADDRESS" in os.environ else joined():
        return main(arguments(folder, policy, chains, *overrides))


def newest(folder):
    """A run's storage, and its newest checkpoint, of which every file is as it was written."""
    storage = Storage.at(folder)
    refused = []
    manifest = newest_valid(storage, refused.append)
    assert not refused
    return storage, manifest


def last_step(folder):
    """What was measured at the last step, but for time, queues, and what was lost."""
    metrics = [m for m in read_metrics(folder) if "training/step" in m][-1]
    left_out = ("time", "timing", "perf/thr", "recovery/", "busy/", "queue/", "data/read")
    left_out = (*left_out, "environment/seconds")
    return {k: v for k, v in metrics.items() if not k.startswith(left_out)}


def assert_same_end(folder, other):
    """Metrics and weights equal within float tolerance, beliefs to the bit."""
    assert last_step(folder) == pytest.approx(last_step(other), rel=1e-4, abs=1e-6)
    ends = [newest(each) for each in (folder, other)]
    assert ends[0][1].step == ends[1][1].step
    one, two = (beliefs_in(*end) for end in ends)
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    models = [
        AutoModelForCausalLM.from_pretrained(model_folder(*end), dtype=torch.float32)
        for end in ends
    ]
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
