"""Whole runs whose prompts are measured when they are drawn: real engines, learner and shards."""

import json

import numpy as np
import pytest

from dps_ray.durable import committed
from pipelines.monitoring.run_log import read_metrics
from tests.faults.beliefs_run import beliefs_in
from tests.runs import assert_same_end, newest, run

pytestmark = pytest.mark.slow

LIMIT = "data.max_prompt_length=8"


def set_aside(folder):
    lines = (folder / "set_aside.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def observed(folder):
    """The prompts of each step."""
    return [observation.split()[0].ids for _, observation in committed(*newest(folder))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, able_policy, chains):
    """A run of three steps with one shard, to which nothing happened."""
    folder = tmp_path_factory.mktemp("drawn") / "whole"
    assert run(folder, able_policy, chains, LIMIT) == 0
    return folder


def test_a_prompt_that_is_too_long_is_set_aside_once_and_never_observed(whole):
    aside = [record["prompt_id"] for record in set_aside(whole)]
    assert 0 < len(aside) == len(set(aside))
    assert not np.isin(np.concatenate(observed(whole)), aside).any()
    assert read_metrics(whole)[-1]["data/prompts_set_aside"] == len(aside)
    assert "train.parquet, row " in set_aside(whole)[0]["why"]
    assert "more than data.max_prompt_length=8" in set_aside(whole)[0]["why"]


def test_the_batch_is_full_all_the_same(whole):
    assert [len(ids) for ids in observed(whole)] == [12, 12, 12]


def test_prompts_are_read_ahead_of_their_use(whole):
    assert read_metrics(whole)[-1]["data/read_ahead"] > 0.3


def test_a_resumed_run_with_another_number_of_shards_draws_and_sets_aside_the_same(
    whole, tmp_path, able_policy, chains
):
    folder = tmp_path / "resumed"
    assert run(folder, able_policy, chains, LIMIT, "loop.steps=2") == 0
    assert run(folder, able_policy, chains, LIMIT, "resources.beliefs.shards=3") == 0
    assert_same_end(folder, whole)
    assert set_aside(folder) == set_aside(whole)


def test_a_batch_is_smaller_where_too_few_prompts_can_be_used(tmp_path, able_policy, chains):
    filters = ("method=uniform", "loop.filter_groups=true", "loop.max_gen_batches=3")
    large = ("loop.batch_size=60", "loop.steps=1")
    few = "data.max_prompt_length=5"
    assert run(tmp_path, able_policy, chains, few, *large, *filters) == 0
    [tried] = observed(tmp_path)
    assert 0 < len(tried) == 120 - len(set_aside(tmp_path)) < 60


def test_measuring_upfront_gives_the_same_run(whole, tmp_path, able_policy, chains):
    folder = tmp_path / "upfront"
    assert run(folder, able_policy, chains, LIMIT, "data.measure=upfront") == 0
    assert not (folder / "set_aside.jsonl").exists()
    ours, theirs = beliefs_in(*newest(folder)), beliefs_in(*newest(whole))
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
