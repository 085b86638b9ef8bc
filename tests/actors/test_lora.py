"""Adapters: what they train, what is merged of them, and the start policy behind them."""

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from actors.learner_setup import PolicySetup
from actors.lora import (
    adapter_parameters,
    check_targets,
    merged,
    plain_parameters,
    save_adapter,
    without_adapters,
)
from actors.memory import _linear
from actors.policy import Policy
from dps_ray.config import settings
from dps_ray.errors import ModelError
from pipelines.training.fit import shape_of
from tests.faults.learner_alone import batch

FIXED = batch(seed=99)


def lora(**changed):
    return settings.load(None, [f"learner.lora.{k}={v}" for k, v in changed.items()]).learner.lora


DEFAULTS = settings.load(None, ["learner.lora={}"]).learner.lora


def policy_of(path, dtype="float32"):
    config = settings.load(None, [f"model.dtype={dtype}"])
    return Policy(PolicySetup.of(config), str(path), torch.device("cpu"))


def logprobs(policy, model):
    """Of the responses of a fixed batch, padded with zeros."""
    inputs = policy.inputs(FIXED, np.arange(len(FIXED.advantages)))
    with torch.no_grad():
        return policy.scores(model, inputs).logprobs


def trained(policy, adapters=DEFAULTS, steps=2):
    """A model with adapters after some steps of AdamW."""
    model = policy.load(lora=adapters)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    inputs = policy.inputs(FIXED, np.arange(len(FIXED.advantages)))
    for _ in range(steps):
        optimizer.zero_grad()
        policy.scores(model, inputs).logprobs.sum().backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_changes_adapters_alone_and_without_them_the_model_is_the_start_policy(
    tiny_policy, dtype
):
    policy = policy_of(tiny_policy, dtype)
    start = policy.load()
    expected = logprobs(policy, start)
    fresh = policy.load(lora=DEFAULTS)
    torch.testing.assert_close(logprobs(policy, fresh), expected, rtol=0, atol=0)
    model = trained(policy)
    found = logprobs(policy, model)
    assert (found - expected).abs().max() > 1e-2
    with without_adapters(model):
        torch.testing.assert_close(logprobs(policy, model), expected, rtol=0, atol=0)
    torch.testing.assert_close(logprobs(policy, model), found, rtol=0, atol=0)
    base = {name: parameter for name, parameter, _ in plain_parameters(model)}
    assert base.keys() == dict(start.named_parameters()).keys()
    for name, parameter in start.named_parameters():
        assert torch.equal(base[name], parameter)
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}


@pytest.mark.parametrize("policy_fixture", ["tiny_policy", "tied_policy"])
def test_the_merged_folder_and_the_adapter_folder_give_what_the_model_gives(
    request, tmp_path, policy_fixture
):
    path = request.getfixturevalue(policy_fixture)
    policy = policy_of(path)
    model = trained(policy)
    expected = logprobs(policy, model)
    weights = {name: merged(p.detach(), adapter) for name, p, adapter in plain_parameters(model)}
    policy.files.save(tmp_path / "model", model, weights)
    again = policy_of(tmp_path / "model")
    torch.testing.assert_close(logprobs(again, again.load()), expected, rtol=0, atol=1e-5)
    save_adapter(tmp_path / "adapter", model, dict(adapter_parameters(model)))
    beside = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(path), tmp_path / "adapter"
    )
    with_adapter = beside.merge_and_unload().state_dict()
    for name, weight in weights.items():
        torch.testing.assert_close(with_adapter[name], weight, rtol=0, atol=1e-6)


def test_every_rank_makes_the_same_adapters(tiny_policy):
    first, second = (
        dict(adapter_parameters(policy_of(tiny_policy).load(lora=DEFAULTS))) for _ in "12"
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_recomputed_activations_give_the_same_gradients(tiny_policy):
    policy = policy_of(tiny_policy)
    inputs = policy.inputs(FIXED, np.arange(len(FIXED.advantages)))

    def gradients(recompute):
        model = policy.load(lora=DEFAULTS).train()
        if recompute:
            model.gradient_checkpointing_enable()
        policy.scores(model, inputs).logprobs.sum().backward()
        return {name: parameter.grad for name, parameter in adapter_parameters(model)}

    kept, recomputed = gradients(False), gradients(True)
    assert any(gradient.any() for gradient in kept.values())
    for name, gradient in kept.items():
        torch.testing.assert_close(recomputed[name], gradient)


def test_the_layers_that_are_named_get_adapters_of_the_rank_that_is_asked_for(tiny_policy):
    model = policy_of(tiny_policy).load(lora=lora(rank=3, target_modules="[q_proj, mlp.up_proj]"))
    adapters = dict(adapter_parameters(model))
    layers = model.config.num_hidden_layers
    for layer in range(layers):
        for name in ("self_attn.q_proj", "mlp.up_proj"):
            assert len(adapters.pop(f"model.layers.{layer}.{name}.lora_A.default.weight")) == 3
            adapters.pop(f"model.layers.{layer}.{name}.lora_B.default.weight")
    assert not adapters


def test_the_arithmetic_of_their_memory_counts_the_adapters_that_there_are(tiny_policy):
    model = policy_of(tiny_policy).load(lora=DEFAULTS)
    counted = sum(parameter.numel() for _, parameter in adapter_parameters(model))
    linear = _linear(shape_of(str(tiny_policy)))
    assert counted == 16 * linear.sides
    adapted = [p.numel() for _, p, adapter in plain_parameters(model) if adapter is not None]
    assert sum(adapted) == linear.weights


@pytest.mark.parametrize("named", ["[q_proj, query]", "[lm_head]", "[proj]", "[embed_tokens]"])
def test_layers_that_the_model_does_not_have_are_refused_with_those_that_it_has(tiny_policy, named):
    config = settings.load(None, [f"learner.lora.target_modules={named}"])
    missing = named.strip("[]").rpartition(", ")[2]
    message = (
        f"LlamaForCausalLM has no linear layer {missing} to adapt; it has down_proj, gate_proj, k_proj, o_proj, "
        "q_proj, up_proj, v_proj"
    )
    with pytest.raises(ModelError, match=message):
        check_targets(str(tiny_policy), config.learner)
    with pytest.raises(ModelError, match=message):
        policy_of(tiny_policy).load(lora=config.learner.lora)


def test_a_frozen_vision_tower_has_no_adapters(vision_policy):
    policy = policy_of(vision_policy)

    own_names = [name for name, _ in policy.load().named_parameters()]
    assert any(name.endswith("q_proj.bias") for name in own_names)

    def of_vision(freeze):
        model = policy.load(freeze, DEFAULTS)
        assert [name for name, *_ in plain_parameters(model)] == own_names
        names = [name for name, _ in adapter_parameters(model)]
        assert any("language_model" in name for name in names)
        return [name for name in names if "visual" in name]

    assert of_vision(freeze=False)
    assert not of_vision(freeze=True)
