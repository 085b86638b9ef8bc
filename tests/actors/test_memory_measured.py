"""The arithmetic of `actors/memory.py` against fake tensors of the real sizes."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import Qwen2Config, Qwen2ForCausalLM

from tests.actors.test_memory import LARGE, SMALL, config, of_rank
from tests.allocated import Allocated

SEQUENCES, TOKENS = 3, 5_120
HEADS = {SMALL: 12, LARGE: 28}


@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["1.5B", "7B"])
def test_activations_are_the_most_that_a_forward_and_backward_pass_takes(shape, recompute):
    expected = of_rank(
        shape,
        config(
            f"learner.max_tokens_per_micro_batch={SEQUENCES * TOKENS}",
            f"learner.gradient_checkpointing={recompute}",
        ),
    ).parts["activations"]
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = Qwen2ForCausalLM._from_config(qwen(shape), dtype=torch.bfloat16).train()
        assert sum(p.numel() for p in model.parameters()) == shape.parameters
        if recompute:
            model.gradient_checkpointing_enable()
        for parameter in model.parameters():  # as DeepSpeed does once a gradient is reduced
            parameter.register_post_accumulate_grad_hook(_drop)
        with Allocated() as allocated:
            for parameter in model.parameters():
                allocated.count(parameter.untyped_storage())
            tokens = torch.zeros(SEQUENCES, TOKENS, dtype=torch.int64)
            weights = allocated.now
            states = model.model(input_ids=tokens, use_cache=False).last_hidden_state
            states.sum().backward()
    assert allocated.peak - weights == pytest.approx(expected, rel=0.15)


def _drop(parameter):
    parameter.grad = None


def qwen(shape):
    return Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=HEADS[shape],
        num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=shape is SMALL,
    )
