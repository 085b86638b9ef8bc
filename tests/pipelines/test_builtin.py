"""The built-in data and start policy: the same for everyone with the same seed, and made once."""

import os
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dps_ray.prompts.dataset import PromptTable, overlap
from dps_ray.tasks import compute_score
from dps_ray.tasks.arithmetic import LEVELS, demonstration, distinct_problems
from pipelines.data import builtin, start_policy
from pipelines.data.playing import success_rates
from pipelines.data.policy_recipe import EOS, VOCABULARY
from pipelines.data.warm_start import encode

MAKERS = [
    builtin.ensure_arithmetic,
    builtin.ensure_countdown,
    builtin.ensure_calculator,
    builtin.ensure_guess_the_number,
]


def prompts(path):
    table = PromptTable.open(path)
    return table.rows(table.ids)


@pytest.mark.parametrize("make", MAKERS)
def test_no_prompt_occurs_twice_not_even_across_training_and_test(make, tmp_path):
    train, test = map(PromptTable.open, make(tmp_path))
    assert len(train) >= 2000
    assert len(test) >= 300
    assert overlap(train, test) == 0
    for table in (train, test):
        assert len(set(table.texts(table.ids))) == len(table)


@pytest.mark.parametrize("make", MAKERS)
def test_the_same_seed_makes_the_same_data_and_another_makes_other(make, tmp_path):
    def fingerprints(folder, seed):
        paths = make(tmp_path / folder, seed=seed, pool=50, test=20)
        return [PromptTable.open(path).fingerprint for path in paths]

    assert fingerprints("a", 1) == fingerprints("b", 1)
    assert fingerprints("a", 1) != fingerprints("a", 2)


@pytest.mark.parametrize("make", MAKERS)
def test_data_that_is_there_is_not_made_again(make, tmp_path):
    paths = make(tmp_path, pool=50, test=20)
    before = [path.stat().st_ino for path in paths]
    assert make(tmp_path, pool=50, test=20) == paths
    assert [path.stat().st_ino for path in paths] == before


def test_a_pool_of_another_size_is_another_file(tmp_path):
    small, _ = builtin.ensure_arithmetic(tmp_path, pool=50, test=20)
    large, _ = builtin.ensure_arithmetic(tmp_path, pool=60, test=20)
    assert len(PromptTable.open(small)) == 50
    assert len(PromptTable.open(large)) == 60


def test_arithmetic_takes_all_levels_as_evenly_as_they_have_prompts(tmp_path):
    train, test = map(prompts, builtin.ensure_arithmetic(tmp_path))
    held_out = Counter(p.extra_info["level"] for p in test)
    assert set(held_out) == {str(level) for level in LEVELS}
    assert set(held_out.values()) == {440 // 20}
    trained = Counter(p.extra_info["level"] for p in train)
    shortest = LEVELS[0]
    assert trained[str(shortest)] == distinct_problems(shortest) - 22
    others = [trained[str(level)] for level in LEVELS[1:]]
    assert max(others) - min(others) <= 1


def test_arithmetic_ground_truths_are_right_responses(tmp_path):
    for prompt in prompts(builtin.ensure_arithmetic(tmp_path, pool=100, test=20)[0]):
        response = demonstration(prompt.messages[0]["content"])
        assert compute_score(prompt.data_source, response, prompt.ground_truth)["acc"] == 1.0


def test_countdown_rows_carry_what_the_verifier_needs(tmp_path):
    for prompt in prompts(builtin.ensure_countdown(tmp_path, pool=100, test=20)[0]):
        scored = compute_score(prompt.data_source, "<answer>1</answer>", prompt.ground_truth)
        assert scored == {"score": 0.1, "acc": 0.0}


def test_base_models_get_countdown_prompts_of_one_message(tmp_path):
    chat, _ = builtin.ensure_countdown(tmp_path, pool=5, test=5)
    base, _ = builtin.ensure_countdown(tmp_path, pool=5, test=5, style="base")
    assert {len(p.messages) for p in prompts(chat)} == {2}
    assert {len(p.messages) for p in prompts(base)} == {1}


def test_data_has_the_columns_of_verl(tmp_path):
    train, _ = builtin.ensure_arithmetic(tmp_path, pool=50, test=20)
    names = ["data_source", "prompt", "ability", "reward_model", "extra_info"]
    assert pq.read_schema(train).names == names


# The start policy


def test_the_tokenizer_takes_one_token_a_character_and_gives_the_text_back(tiny_policy):
    tokenizer = AutoTokenizer.from_pretrained(tiny_policy)
    text = "6+6*7-0=2,;()? "
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokens == encode(text)
    assert tokenizer.decode([*tokens, EOS], skip_special_tokens=True) == text
    assert len(tokenizer) == len(VOCABULARY) == 24
    assert tokenizer.eos_token_id == EOS


def test_the_chat_template_only_joins_the_contents(tiny_policy):
    tokenizer = AutoTokenizer.from_pretrained(tiny_policy)
    messages = [{"role": "system", "content": "6+"}, {"role": "user", "content": "6="}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "6+6="


@pytest.mark.parametrize("tied", [False, True])
def test_a_policy_loads_in_plain_transformers(tied, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(start_policy.tiny_policy(tmp_path, tied=tied))
    shared = model.lm_head.weight is model.model.embed_tokens.weight
    assert shared == tied
    assert model.dtype == torch.float32


def test_the_same_seed_makes_the_same_policy_and_another_makes_another(tmp_path):
    def weights(folder, seed):
        path = start_policy.tiny_policy(tmp_path / folder, seed=seed, steps=4)
        return AutoModelForCausalLM.from_pretrained(path).state_dict()

    one, same, other = weights("a", 1), weights("b", 1), weights("a", 2)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


def test_making_a_policy_leaves_the_callers_random_state_and_threads_alone(tmp_path):
    torch.manual_seed(5)
    random_state, threads = torch.get_rng_state(), torch.get_num_threads()
    start_policy.tiny_policy(tmp_path, steps=2)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.get_num_threads() == threads


def test_callers_at_the_same_time_share_one_policy(tmp_path):
    # The lock is the file's, so threads contend for it as processes do.
    with ThreadPoolExecutor(4) as callers:
        paths = list(callers.map(start_policy.tiny_policy, [tmp_path] * 4))
    assert len(set(paths)) == 1
    made = [name for name in os.listdir(tmp_path) if not name.startswith(".")]
    assert len(made) == 1


def test_what_was_left_half_made_is_made_again(tmp_path):
    path = start_policy.tiny_policy(tmp_path)
    complete = sorted(os.listdir(path))
    path.rename(tmp_path / f".{path.name}.making")
    (tmp_path / f".{path.name}.making" / "model.safetensors").unlink()
    assert sorted(os.listdir(start_policy.tiny_policy(tmp_path))) == complete


@pytest.mark.slow
def test_demonstrations_of_sums_teach_sums(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(start_policy.tiny_policy(tmp_path, steps=150))
    torch.manual_seed(0)
    rates = success_rates(
        model, "arithmetic", LEVELS[0], prompts=16, responses=8, rng=random.Random(0)
    )
    assert 0.2 < rates.mean() < 1.0
