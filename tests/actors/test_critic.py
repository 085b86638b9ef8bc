"""The critic's model: a value for each response token, from what comes before the token."""

import shutil

import pytest
import torch

from actors.critic import ValueHead, check_critic, load_critic
from dps_ray.errors import ModelError


@pytest.fixture(scope="module")
def critic(tiny_policy):
    model = load_critic(str(tiny_policy), torch.float32, freeze_vision_tower=False).eval()
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    return model


TOKENS = torch.tensor([[3, 5, 7, 9, 4, 6], [8, 2, 6, 5, 0, 0]])
SCORED = torch.tensor([[0, 1, 1, 1, 1], [0, 0, 1, 0, 0]]).bool()


def values(critic, tokens, scored=SCORED):
    """Of the tokens after the first that `scored` names, (b, t - 1)."""
    targets, wanted = (torch.nn.functional.pad(each, (0, 1)) for each in (tokens[:, 1:], scored))
    with torch.no_grad():
        return critic(tokens, targets, wanted)[0]


def test_a_new_critic_expects_a_score_of_0(tiny_policy):
    new = load_critic(str(tiny_policy), torch.bfloat16, freeze_vision_tower=False)
    found = values(new, TOKENS)
    assert found.dtype == torch.float32
    assert found.tolist() == [0.0] * 5


def test_a_value_depends_on_what_comes_before_its_token_alone(critic):
    before = values(critic, TOKENS)
    assert len(before) == 5
    changed = TOKENS.clone()
    changed[0, 3] = 2  # the second of the scored tokens of the first sequence
    after = values(critic, changed)
    torch.testing.assert_close(after[:2], before[:2])
    torch.testing.assert_close(after[4:], before[4:])
    assert (after[2:4] - before[2:4]).abs().min() > 1e-3


def test_padding_changes_no_value(critic):
    alone = values(critic, TOKENS[1:, :4], SCORED[1:, :3])
    torch.testing.assert_close(alone, values(critic, TOKENS)[4:])


def test_the_head_computes_in_float32_from_weights_in_bfloat16():
    head = ValueHead(3, torch.bfloat16)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 1.0, 1.0]]))
    states = torch.tensor([[256.0, 1.0, 0.5]])  # in bfloat16 this sum is 256 or 258
    assert head(states).tolist() == [257.5]


def test_a_vision_tower_can_be_frozen(vision_policy):
    critic = load_critic(str(vision_policy), torch.float32, freeze_vision_tower=True)
    trained = {name for name, p in critic.named_parameters() if p.requires_grad}
    assert trained
    assert not any("visual" in name for name in trained)
    assert values(critic, TOKENS).tolist() == [0.0] * 5


def test_a_critic_reads_the_policys_tokens_and_sees_its_images(
    tiny_policy, tied_policy, vision_policy, tmp_path
):
    check_critic(str(tied_policy), str(tiny_policy))
    check_critic(str(vision_policy), str(vision_policy))
    other = shutil.copytree(tiny_policy, tmp_path / "other")
    tokenizer = other / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"7"', '"seven"'))
    with pytest.raises(ModelError, match=r"learner.critic.path=.*other: its tokenizer is another"):
        check_critic(str(other), str(tiny_policy))
    with pytest.raises(ModelError, match=r"of type llama, and the policy, .* of type qwen2_5_vl"):
        check_critic(str(tiny_policy), str(vision_policy))
