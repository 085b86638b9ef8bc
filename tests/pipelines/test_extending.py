"""The selector and the reward of docs/extending.md."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from dps_ray import Config, Observation, merge
from dps_ray.config import settings
from dps_ray.hashing import shards
from dps_ray.rewards.functions import load_reward
from dps_ray.selection import methods
from dps_ray.selection.selector import Context
from tests.runs import newest, run

SELECTOR = Path("examples/nearest_half.py").absolute()
REWARD = Path("examples/own_reward.py").absolute()
METHOD = f"{SELECTOR}:NearestHalf"
IDS, K = np.arange(200), 8


def selectors(count, config):
    homes = shards(IDS, count)
    context = Context(config.seed, len(IDS), K, config.states)
    return [
        methods.make(config.method, IDS[homes == shard], config.selector, context)
        for shard in range(count)
    ]


def follow(parts, steps):
    """The batches of these steps; the success rate of a prompt is that of its place in the pool."""
    homes, batches = shards(IDS, len(parts)), []
    for step in steps:
        batch = np.sort(merge([part.select(min(16, len(part))) for part in parts], 16).ids)
        right = np.random.default_rng(step).binomial(K, batch / 200)
        states = np.select([right == 0, right == K], [0, 2], 1)
        whole = Observation(batch, states, right, np.full(16, K))
        for shard, part in enumerate(parts):
            part.observe(whole.take(homes[batch] == shard), whole)
        batches.append(batch.tolist())
    return batches


def test_the_page_shows_the_files_as_they_are():
    shown = re.findall(
        r"```python\n((?:class|def) .*?)```", Path("docs/extending.md").read_text(), re.S
    )
    files = [REWARD.read_text(), SELECTOR.read_text()]
    assert all(code in file for code, file in zip(shown, files, strict=True))
    selector = shown[1].strip().splitlines()
    assert len([line for line in selector if line]) <= 25


def test_the_command_of_the_page_is_a_valid_configuration():
    page = Path("docs/extending.md").read_text()
    (command,) = re.findall(r"pipelines.grpo_dps (.*?)\n```", page, re.S)
    config = settings.load(None, command.replace("\\\n", "").split())
    assert (config.method, config.selector.decay) == (METHOD, 0.5)
    kind = methods.load(METHOD)
    assert Config(selector=kind.Settings(decay=0.5)) == Config(method=kind, selector={"decay": 0.5})
    assert Config(selector=kind.Settings(decay=0.5)).method == METHOD


def test_the_reward_gives_credit_for_each_right_step():
    reward = load_reward(f"{REWARD}:reward")
    given = {"data_source": "arithmetic", "ground_truth": "6+6=2,2+9=1;", "extra_info": None}
    assert reward(solution_str="6+6=2,2+9=1;", **given) == {"score": 1.0, "acc": 1.0}
    assert reward(solution_str="6+6=2,2+9=3;", **given) == {"score": 0.5, "acc": 0.0}
    assert reward(solution_str="", **given) == {"score": 0.0, "acc": 0.0}


def test_the_selector_comes_to_the_prompts_that_are_solved_half_of_the_time():
    batches = follow(selectors(1, Config(method=METHOD, selector={"rest": 5})), range(120))
    assert len(set(np.concatenate(batches).tolist())) > 150
    late = np.concatenate(batches[80:])
    assert 0.3 < np.median(late / 200) < 0.7
    assert np.mean(np.abs(late / 200 - 0.5)) < 0.2


@pytest.mark.parametrize("count", [2, 5])
def test_any_number_of_shards_chooses_the_same_and_a_restored_selector_goes_on(count):
    config = Config(method=METHOD, selector={"decay": 0.5, "max_uses": 3})
    one, many = selectors(1, config), selectors(count, config)
    assert follow(one, range(20)) == follow(many, range(20))
    again = selectors(count, config)
    for new, old in zip(again, many, strict=True):
        new.load_state(old.snapshot())
    assert follow(again, range(20, 40)) == follow(one, range(20, 40))
    other = selectors(1, Config(method=METHOD, selector={"decay": 0.7, "max_uses": 3}))
    with pytest.raises(ValueError, match=r"taken with decay=0.5, and this selector has 0.7"):
        other[0].load_state(one[0].snapshot())


@pytest.mark.slow
def test_a_run_with_both_trains_and_is_resumed(tmp_path, able_policy, chains):
    own = (f"method={METHOD}", "selector.decay=0.5", f"data.reward={REWARD}:reward")
    own = (*own, "resources.beliefs.shards=2")
    assert run(tmp_path, able_policy, chains, *own, "loop.steps=2") == 0
    assert run(tmp_path, able_policy, chains, *own, "loop.steps=3") == 0
    assert newest(tmp_path)[1].step == 3
    config = settings.load(tmp_path / "config.yaml")
    assert (config.method, config.selector.decay) == (METHOD, 0.5)
    samples = (tmp_path / "samples.jsonl").read_text().splitlines()
    scores = {json.loads(line)["score"] for line in samples}
    assert scores
    assert all(0 <= score <= 1 for score in scores)
