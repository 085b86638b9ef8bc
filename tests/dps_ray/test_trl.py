"""TRL on selected prompts, with the real trainer."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("trl", reason='TRL is not installed: pip install "dps_ray[trl]"')


from dps_ray import PromptSampler
from tests.dps_ray.trl_run import GROUP, ROWS, Rewards, data, trainer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:TRL currently supports vLLM")]
KINDS = {"kinds": "level"}


def assert_choices_of_a_sampler(
    groups: list[tuple[list[int], np.ndarray]], **arguments: Any
) -> None:
    """These are the choices of a `PromptSampler` that is told the rewards of each generation before the next."""
    levels = data()["level"]
    sampler = PromptSampler(range(ROWS), GROUP, **{"kinds": list(levels), "seed": 3, **arguments})
    for keys, rewards in groups:
        assert keys == sampler.take(len(keys))
        sampler.report(keys, rewards)


@pytest.mark.parametrize(
    ("settings", "generations"),
    [
        ({}, 4),
        ({"per_device_train_batch_size": 3 * GROUP, "gradient_accumulation_steps": 2}, 4),
        ({"per_device_train_batch_size": 2 * GROUP, "steps_per_generation": 3}, 2),
        ({"num_iterations": 2}, 2),
        ({"dataloader_num_workers": 1, "dataloader_prefetch_factor": 2}, 4),
        ({"remove_unused_columns": False, "shuffle_dataset": False}, 4),
    ],
    ids=[
        "as it comes",
        "gradient accumulation",
        "steps per generation",
        "iterations",
        "loader processes",
        "in order",
    ],
)
def test_each_generation_is_chosen_by_the_rewards_of_all_before_it(
    tiny_policy, tmp_path, settings, generations
):
    rewards = Rewards()
    trainer(tiny_policy, tmp_path, rewards, settings=settings, dps=KINDS).train()
    assert len(rewards.rows) == generations
    assert_choices_of_a_sampler(rewards.groups())
