"""Ranks that share sequences (`learner.sequence_parallel`) train as ranks that do not."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
)

from actors.learner import Learner
from actors.sequence_parallel import SequenceParallel, check_model
from cluster.placement import Placement, plan
from dps_ray.config import settings
from dps_ray.durable import DEEPSPEED_TAG, Manifest, Storage, checkpoint_folder
from dps_ray.errors import ConfigError, ModelError
from tests.faults.learner_alone import batch, config

FIXED = batch(seed=99)
ALL_TERMS = ["objective.kl_coef=0.1", "objective.entropy_coef=0.01"]


@pytest.fixture(scope="module")
def few_kv_heads(tiny_policy, tmp_path_factory):
    """A policy with one head of keys and values; every rank has a copy of it."""
    folder = shutil.copytree(tiny_policy, tmp_path_factory.mktemp("policies") / "few_kv_heads")
    shape = AutoConfig.from_pretrained(tiny_policy)
    shape.num_key_value_heads = 1
    torch.manual_seed(0)
    LlamaForCausalLM(shape).save_pretrained(folder)
    return folder


def started(folder, model, *, ranks, sharing, epoch, zero_stage, more, saved=None):
    """A learner whose ranks share sequences in groups of `sharing`, and have up to 32 tokens in a pass."""
    settings_ = config(
        folder,
        zero_stage,
        ranks,
        "data.max_prompt_length=8",
        "rollout.max_response_length=24",
        "learner.max_tokens_per_micro_batch=32",
        f"learner.sequence_parallel={sharing}",
        *more,
    )
    learner = Learner(settings_, str(model), "gloo", epoch, Placement(plan(settings_)).learner)
    learner.start(Storage.at(folder), saved)
    return learner


def manifest(stored, ranks, zero_stage, epoch):
    return Manifest(
        epoch=epoch,
        step=2,
        files=tuple(stored),
        lineage=((epoch, 0),),
        dataset_fingerprint="",
        config_hash="",
        weight_version=2,
        belief_shards=1,
        learner_ranks=ranks,
        zero_stage=zero_stage,
        deepspeed_tag=DEEPSPEED_TAG,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "ranks", "zero_stage", "more"),
    [
        ("few_kv_heads", 2, 1, ALL_TERMS),
        ("tiny_policy", 4, 3, [*ALL_TERMS, "learner.gradient_checkpointing=true"]),
        ("few_kv_heads", 2, 2, ["objective.kl_coef=0.1", "learner.lora={rank: 4}"]),
    ],
    ids=["zero-1", "zero-3 in two groups", "adapters"],
)
def test_two_ranks_that_share_sequences_train_as_ranks_that_do_not(
    request, local_ray, tmp_path, policy, ranks, zero_stage, more
):
    """Metrics, weights and log-probabilities after four optimizer steps. Sequences have 11 to 18 tokens."""
    common = {"ranks": ranks, "zero_stage": zero_stage, "more": more}
    model = request.getfixturevalue(policy)
    metrics, weights, logprobs = [], [], []
    for epoch, sharing in enumerate((1, 2), 1):
        learner = started(tmp_path, model, sharing=sharing, epoch=epoch, **common)
        metrics.append([learner.train(batch(seed), seed).result().metrics for seed in (1, 2)])
        logprobs.append(learner.logprobs(FIXED))
        folder = checkpoint_folder(epoch, 2)
        learner.save(Storage.at(tmp_path), folder).result()
        saved = tmp_path / folder / "model"
        weights.append(load_file(saved / "model.safetensors"))
        assert "ulysses" not in (saved / "config.json").read_text()  # it loads anywhere
        learner.kill()
    for alone, shared in zip(*metrics, strict=True):
        assert alone["actor/grad_norm"] > 0.1
        assert shared == pytest.approx(alone, abs=1e-5)
    assert logprobs[1] == pytest.approx(logprobs[0], abs=1e-5)
    assert weights[1].keys() == weights[0].keys()
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_checkpoint_is_continued_by_ranks_that_share_sequences_otherwise(
    local_ray, tmp_path, tiny_policy
):
    """With as many ranks, and with more, which a checkpoint is converted for."""
    storage, folder = Storage.at(tmp_path), checkpoint_folder(1, 2)
    common = {"model": tiny_policy, "zero_stage": 2, "more": ALL_TERMS}
    learner = started(tmp_path, ranks=2, sharing=1, epoch=1, **common)
    for seed in (1, 2):
        learner.train(batch(seed), seed).result()
    logprobs = learner.logprobs(FIXED)
    stored = learner.save(storage, folder).result()
    expected = learner.train(batch(3), 3).result().metrics
    after = learner.logprobs(FIXED)
    learner.kill()
    assert np.abs(np.subtract(after, logprobs)).max() > 1e-3
    saved = manifest(stored, ranks=2, zero_stage=2, epoch=1)
    for epoch, (ranks, sharing) in enumerate([(2, 2), (4, 2)], 2):
        again = started(tmp_path, ranks=ranks, sharing=sharing, epoch=epoch, saved=saved, **common)
        assert again.logprobs(FIXED) == pytest.approx(logprobs, abs=1e-5)
        found = again.train(batch(3), 3).result().metrics
        assert found == pytest.approx(expected, abs=1e-5)
        assert again.logprobs(FIXED) == pytest.approx(after, abs=1e-5)
        again.kill()


def test_slices_together_are_the_micro_batch_and_none_is_left_without_a_score():
    tokens = torch.arange(1, 15).reshape(2, 7)
    response = torch.zeros(2, 7)
    response[0, 3:5] = 1
    slices = [place(i, of=3).own_slice(tokens, response) for i in range(3)]
    side_by_side = [torch.cat([part[field] for part in slices], 1) for field in range(3)]
    assert side_by_side[0][:, :7].equal(tokens)
    assert not side_by_side[0][:, 7:].any()
    assert side_by_side[1][:, :6].equal(tokens[:, 1:])
    # Tokens 3 and 4 are predicted at 2, in the first slice, and 3, in the second; the last has one to be there.
    assert side_by_side[2].nonzero().tolist() == [[0, 2], [0, 3], [0, 6]]
    positions = [part.positions["position_ids"] for part in slices]
    assert torch.cat(positions, 1).tolist() == [list(range(9))]


def place(rank, of):
    """A rank of a group, without the process group, which slices do not need."""
    sequence = SequenceParallel()
    sequence.size, sequence.place = of, rank
    return sequence


def test_a_rank_alone_has_whole_sequences_and_leaves_positions_to_the_model():
    tokens, response = torch.arange(14).reshape(2, 7), torch.ones(2, 7)
    mine = SequenceParallel().own_slice(tokens, response)
    assert mine.tokens.equal(tokens)
    assert not mine.positions
    assert mine.scored.sum(1).tolist() == [6, 6]


SMALL = {
    "vocab_size": 32,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
}


@pytest.mark.parametrize(
    ("model", "size", "message"),
    [
        (
            Qwen2ForCausalLM(Qwen2Config(**SMALL)),
            5,
            r"sequence_parallel=5: Qwen2ForCausalLM has 12 attention heads and 2 heads of keys and values, .* it can be "
            r"1, 2, 4, 6, 12$",
        ),
        (
            MistralForCausalLM(MistralConfig(**SMALL, sliding_window=16)),
            2,
            "MistralForCausalLM has a sliding window of 16 tokens",
        ),
        (
            Gemma2ForCausalLM(Gemma2Config(**SMALL, head_dim=4)),
            2,
            "Gemma2ForCausalLM has layers of the kind sliding_attention",
        ),
        (
            BloomForCausalLM(BloomConfig(vocab_size=32, hidden_size=16, n_head=2, n_layer=1)),
            2,
            "BloomForCausalLM computes attention by code of its own",
        ),
    ],
    ids=["heads", "window", "layers", "own attention"],
)
def test_a_model_whose_sequences_cannot_be_shared_is_refused_before_it_is_loaded(
    tmp_path, model, size, message
):
    model.config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=message):
        check_model(str(tmp_path), size)
    check_model(str(tmp_path), 1)


@pytest.mark.parametrize(
    "shape",
    [
        LlamaConfig(**SMALL),
        Qwen2Config(**SMALL, sliding_window=16, use_sliding_window=False),
        Qwen3Config(**SMALL),
    ],
    ids=["llama", "qwen2", "qwen3"],
)
def test_a_model_whose_heads_are_divided_is_accepted(tmp_path, shape):
    shape.save_pretrained(tmp_path)
    for size in (1, 2, 4, 6, 12):
        check_model(str(tmp_path), size)


def test_a_vision_language_model_is_refused(vision_policy):
    with pytest.raises(ConfigError, match=r"is a vision-language model.*sequence_parallel=1"):
        check_model(str(vision_policy), 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["resources.learner.ranks=3"], "ranks share sequences in groups of 2; set resources"),
        (
            ["resources.learner.ranks=2", "learner.max_tokens_per_micro_batch=1023"],
            r"= 2048 tokens, shared by learner\.sequence_parallel=2 ranks; set it to 1024 or more",
        ),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(given, message):
    lengths = ["data.max_prompt_length=1024", "rollout.max_response_length=1024"]
    with pytest.raises(ConfigError, match=message):
        settings.load(None, ["learner.sequence_parallel=2", *lengths, *given])


def test_the_least_budget_that_is_accepted_holds_a_part_of_the_longest_sequence():
    given = ["resources.learner.ranks=2", "learner.sequence_parallel=2"]
    longest = ["data.max_prompt_length=1024", "rollout.max_response_length=1025"]
    budget = "learner.max_tokens_per_micro_batch=1025"
    config_ = settings.load(None, [*given, *longest, budget])
    of_two = place(0, of=2).divided(np.array([2049, 2048, 1]))
    assert of_two.tolist() == [1025, 1024, 1]
    assert of_two.max() == config_.learner.max_tokens_per_micro_batch
