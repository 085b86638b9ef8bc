"""The tokens between a response and the next are those that the chat template writes there."""

import pytest

from dps_ray.errors import ModelError
from pipelines.data.warm_start import build_tokenizer
from pipelines.rollout.encoding import Encoder

QUESTION = [{"role": "user", "content": "6+6="}]
CHATML = "{% for m in messages %}<bos>{{ m.content }}<eos>={% endfor %}{% if add_generation_prompt %}<bos>{% endif %}"


@pytest.fixture
def encoder_with():
    def make(template: str | None = None) -> Encoder:
        tokenizer = build_tokenizer()
        if template is not None:
            tokenizer.chat_template = template
        return Encoder(tokenizer, None, "the model", str)

    return make


def tokens(encoder: Encoder, text: str) -> list[int]:
    return encoder.tokenizer([text], add_special_tokens=False)["input_ids"][0]


def test_without_marks_of_turns_a_message_is_appended(encoder_with):
    encoder = encoder_with()
    end = encoder.tokenizer.eos_token_id
    new = [{"role": "tool", "content": "1+2="}, {"role": "user", "content": "3"}]
    found = encoder.continuation(QUESTION, new, end, 7)
    assert found.tolist() == tokens(encoder, "1+2=3")


def test_a_conversation_in_tokens_is_what_the_template_writes_for_all_of_it(encoder_with):
    end = encoder_with().tokenizer.eos_token
    encoder = encoder_with(CHATML.replace("<eos>", end))
    answer = tokens(encoder, "2" + end)
    new = [{"role": "tool", "content": "3+3="}]
    ours = [
        *encoder.opening(QUESTION, 7),
        *answer,
        *encoder.continuation(QUESTION, new, answer[-1], 7),
    ]
    whole = [*QUESTION, {"role": "assistant", "content": "2"}, *new]
    assert ours == encoder.opening(whole, 7).tolist()


def test_the_end_of_the_turn_is_added_to_a_response_that_lacks_it(encoder_with):
    end = encoder_with().tokenizer.eos_token
    encoder = encoder_with(CHATML.replace("<eos>", end))
    new = [{"role": "tool", "content": "3"}]
    with_end, without = (
        encoder.continuation(QUESTION, new, tokens(encoder, last)[-1], 7).tolist()
        for last in (end, "2")
    )
    assert without == [encoder.tokenizer.eos_token_id, *with_end]


def test_a_template_that_leaves_responses_out_is_refused(encoder_with):
    encoder = encoder_with("{{ messages[0].content }}")
    with pytest.raises(ModelError, match="a conversation cannot go on"):
        encoder.continuation(QUESTION, QUESTION, 0, 7)


def test_a_template_that_refuses_a_role_is_an_error_that_says_so(encoder_with):
    encoder = encoder_with(
        "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    with pytest.raises(ModelError, match="no tools"):
        encoder.continuation(QUESTION, [{"role": "tool", "content": "1"}], 0, 7)
