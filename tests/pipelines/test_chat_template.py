"""Where the bos token of a prompt comes from: the chat template, and nothing else."""

import re
import shlex
from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from dps_ray.config import settings
from dps_ray.errors import ModelError
from dps_ray.prompts.dataset import PromptTable
from dps_ray.prompts.files import write_prompts
from pipelines.data.policy_recipe import BOS, VOCABULARY
from pipelines.data.warm_start import build_tokenizer
from pipelines.rollout.pool import PromptPool
from pipelines.rollout.processors import load_tokenizer

QUESTION = "6+6="
TOKENS = [VOCABULARY[character] for character in QUESTION]
JOINED = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.fixture
def base_model(tmp_path, tiny_policy):
    """A model without a chat template; with a bos token or none, which its tokenizer adds by itself or not."""

    def make(bos: str | None, added: bool = False) -> Path:
        folder = tmp_path / "base"
        tokenizer = build_tokenizer()
        tokenizer.chat_template, tokenizer.bos_token = None, bos
        if added:
            tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
                single="<bos> $A", special_tokens=[("<bos>", BOS)]
            )
        tokenizer.save_pretrained(folder)
        (folder / "config.json").write_bytes((tiny_policy / "config.json").read_bytes())
        return folder

    return make


@pytest.fixture
def tokens_of(tmp_path):
    """The tokens of a prompt for a model with these overrides."""

    def tokens(model: Path, *overrides: str) -> list[int]:
        messages = [{"role": "user", "content": QUESTION}]
        truth = {"style": "rule", "ground_truth": "2"}
        row = {"data_source": "sums", "prompt": messages, "reward_model": truth}
        write_prompts(tmp_path / "prompts.parquet", [row])
        config = settings.load(None, [f"model.path={model}", *overrides])
        tokenizer = load_tokenizer(str(model), config.model.chat_template)
        table = PromptTable.open(tmp_path / "prompts.parquet")
        pool = PromptPool(table, tokenizer, None, config, lambda *_: None)
        [request] = pool.encoder.requests(pool.prompts(pool.ids))
        return request.tokens.tolist()

    return tokens


def suggestion(model: Path) -> str:
    """The override in the error about a model without a chat template, as a shell reads it."""
    with pytest.raises(ModelError, match="has no chat template") as error:
        load_tokenizer(str(model), None)
    [quoted] = re.findall(r"'model.chat_template=.*'", str(error.value))
    [override] = shlex.split(quoted)
    return override


@pytest.mark.parametrize("added", [False, True], ids=["not added", "added by the tokenizer"])
def test_the_suggested_template_begins_a_prompt_with_one_bos_token(base_model, tokens_of, added):
    model = base_model("<bos>", added)
    by_itself = AutoTokenizer.from_pretrained(model)(QUESTION)["input_ids"]
    assert by_itself == ([BOS] if added else []) + TOKENS
    assert tokens_of(model, suggestion(model)) == [BOS, *TOKENS]


def test_without_a_bos_token_the_suggested_template_writes_none(base_model, tokens_of):
    model = base_model(None)
    override = suggestion(model)
    assert "bos" not in override
    assert tokens_of(model, override) == TOKENS


@pytest.mark.parametrize("begin", ["{{ bos_token }}", "<bos>", ""])
def test_a_template_of_your_own_has_the_bos_token_that_it_writes_and_no_other(
    base_model, tokens_of, tmp_path, begin
):
    (tmp_path / "mine.jinja").write_text(begin + JOINED)
    tokens = tokens_of(
        base_model("<bos>", added=True), f"model.chat_template={tmp_path / 'mine.jinja'}"
    )
    assert tokens == ([BOS] if begin else []) + TOKENS
