"""Scores of response tokens in chunks: the same as from all logits at once, in a fraction of the memory."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import pad
from transformers import Gemma2Config, Gemma2ForCausalLM, Qwen2Config, Qwen2ForCausalLM

from actors import scoring
from actors.scoring import answer_with_scores
from dps_ray.config import ObjectiveSettings
from dps_ray.objective.grpo import PaddedTensors, TokenScores, grpo_loss_of, score_tokens
from tests.allocated import Allocated

VOCABULARY, TEMPERATURE = 97, 0.8
LENGTHS, PROMPT = (11, 7, 5), 3  # of the sequences of a micro-batch; tokens of each prompt


def qwen(tied=False, dtype=torch.float32):
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    return Qwen2ForCausalLM(config).to(dtype).eval()


def micro_batch():
    """Tokens (b, t) padded with zeros, the attention mask that says so, and which tokens are of a response."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.zeros((len(LENGTHS), max(LENGTHS)), dtype=torch.int64)
    mask = torch.zeros_like(tokens)
    for row, length in enumerate(LENGTHS):
        tokens[row, :length] = torch.randint(1, VOCABULARY, (length,), generator=generator)
        mask[row, :length] = 1
    scored = mask[:, 1:] > 0
    scored[:, : PROMPT - 1] = False
    return tokens, mask, scored


def gradients(model, scores, entropy_coef):
    """Of a sum of the scores in which every token weighs something else."""
    model.zero_grad()
    weights = torch.linspace(-1.0, 1.0, len(scores.logprobs))
    ((scores.logprobs + entropy_coef * scores.entropy) * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def of_all_logits(model, entropy_gradient=False):
    """The scores from the model's own forward pass: masked, all logits at once."""
    tokens, mask, scored = micro_batch()
    logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits
    found = score_tokens(logits[:, :-1], tokens[:, 1:], TEMPERATURE, entropy_gradient)
    return TokenScores(*(part[scored] for part in found))


def in_chunks(model, entropy_gradient=False):
    tokens, _, scored = micro_batch()
    return model(
        input_ids=tokens,
        targets=pad(tokens[:, 1:], (0, 1)),
        scored=pad(scored, (0, 1)),
        temperature=TEMPERATURE,
        entropy_gradient=entropy_gradient,
    )


@pytest.mark.parametrize("entropy_coef", [0.0, 0.1])
@pytest.mark.parametrize("rows", [1, 4, 1000])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_scores_and_gradients_are_those_of_all_logits_and_a_mask(
    monkeypatch, dtype, tolerance, tied, rows, entropy_coef
):
    monkeypatch.setattr(scoring, "CHUNK", rows * VOCABULARY)
    model = qwen(tied, dtype)
    expected = of_all_logits(model, entropy_coef > 0)
    expected_gradients = gradients(model, expected, entropy_coef)
    assert answer_with_scores(model)
    found = in_chunks(model, entropy_coef > 0)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    for name, gradient in gradients(model, found, entropy_coef).items():
        theirs = expected_gradients[name]
        scale = max(1.0, theirs.abs().max().item())
        torch.testing.assert_close(gradient, theirs, rtol=0, atol=tolerance * scale)


def test_a_model_that_changes_its_logits_after_the_head_is_scored_by_those():
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        final_logit_softcapping=0.5,
    )
    model = Gemma2ForCausalLM(config).eval()
    expected = of_all_logits(model)
    expected_gradients = gradients(model, expected, 0.0)
    assert not answer_with_scores(model)
    found = in_chunks(model)
    torch.testing.assert_close(found.logprobs, expected.logprobs, rtol=0, atol=1e-6)
    for name, gradient in gradients(model, found, 0.0).items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=0, atol=1e-6)


def test_tokens_that_are_never_sampled_have_no_probability():
    model, never = qwen(), [5, 96]
    plain = of_all_logits(model)
    assert answer_with_scores(model, never)
    tokens, _, scored = micro_batch()
    targets = tokens[:, 1:][scored]
    found = in_chunks(model).logprobs
    assert (found[torch.isin(targets, torch.tensor(never))] < -1e8).all()
    others = ~torch.isin(targets, torch.tensor(never))
    assert (found[others] > plain.logprobs[others]).all()


@pytest.mark.parametrize(("sequences", "tokens", "gigabytes"), [(3, 5_120, 5), (2, 16_384, 6)])
def test_the_loss_fits_beside_a_model_with_a_vocabulary_of_151_936(sequences, tokens, gigabytes):
    """At the hidden size of 1.5B, in bfloat16; all of each sequence is response. With all logits: 42 and 90 GB."""
    vocabulary, hidden = 151_936, 1_536
    with FakeTensorMode(), Allocated() as allocated:
        states = torch.empty(sequences, tokens, hidden, dtype=torch.bfloat16, requires_grad=True)
        weight = torch.empty(vocabulary, hidden, dtype=torch.bfloat16, requires_grad=True)
        nothing = torch.zeros(sequences, tokens)
        batch = PaddedTensors(
            torch.zeros(sequences, tokens, dtype=torch.int64),
            torch.ones(sequences, tokens),
            *(nothing, nothing, nothing),
            torch.ones(sequences, 1),
        )
        inputs = allocated.now
        rows = scoring.CHUNK // vocabulary
        scores = scoring.scores_in_chunks(
            lambda states: states @ weight.T,
            rows,
            (),
            states[:, :-1].reshape(-1, hidden),
            batch.tokens[:, 1:].reshape(-1),
            1.0,
            False,
        )
        padded = TokenScores(*(part.reshape(sequences, -1) for part in scores))
        loss, _ = grpo_loss_of(
            padded,
            batch,
            settings=ObjectiveSettings(),
            minibatch_tokens=sequences * tokens,
            minibatch_sequences=sequences,
            first=True,
        )
        loss.backward()
    assert inputs < allocated.peak - inputs < gigabytes * 1e9
