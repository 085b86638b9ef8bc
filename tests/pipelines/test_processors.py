"""A tokenizer is found by transformers once, and loaded from the cache without torch after that."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer, Qwen2Config, Qwen2Tokenizer

from dps_ray.errors import ModelError
from pipelines.rollout import processors
from pipelines.rollout.processors import load_processors

ROOT = Path(__file__).parents[2]
TEXTS = ["1+2*3=", "", "a b  c\n", "<eos>1<unk>"]


def entries(cache):
    return sorted(path.name for path in (cache / "tokenizers").glob("*"))


def tokens(tokenizer):
    return tokenizer(TEXTS, add_special_tokens=False)["input_ids"]


@pytest.fixture
def model(tiny_policy, tmp_path):
    """A model's folder that a test may change."""
    return Path(shutil.copytree(tiny_policy, tmp_path / "model"))


@pytest.fixture
def qwen(tmp_path):
    """A model whose tokenizer has a class of its own, which decides how a text is split."""
    folder = tmp_path / "qwen"
    Qwen2Config(vocab_size=300, hidden_size=8).save_pretrained(folder)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789+*=<>ĠĊ"
    vocabulary = {letter: index for index, letter in enumerate([*letters, "bc", "Ġb"])}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[("b", "c"), ("Ġ", "b")])
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def found(monkeypatch):
    """How often transformers was asked for a tokenizer."""
    calls = []
    ask = processors._found
    monkeypatch.setattr(processors, "_found", lambda model: calls.append(model) or ask(model))
    return calls


@pytest.mark.parametrize("name", ["model", "qwen"])
def test_a_kept_tokenizer_gives_the_tokens_that_transformers_own_gives(
    name, request, tmp_path, found
):
    path = str(request.getfixturevalue(name))
    first, again = (load_processors(path, None, None, tmp_path) for _ in range(2))
    own = AutoTokenizer.from_pretrained(path)
    assert len(found) == 1
    assert first.images is again.images is None
    assert tokens(first.tokenizer) == tokens(again.tokenizer) == tokens(own)
    messages = [{"role": "user", "content": "1+2="}]
    texts = [
        each.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        for each in (first.tokenizer, again.tokenizer, own)
    ]
    assert texts[0] == texts[1] == texts[2]


def test_the_driver_starts_and_loads_a_kept_tokenizer_without_torch(tiny_policy, tmp_path):
    load_processors(str(tiny_policy), None, None, tmp_path)
    program = f"""if True:
        import sys
        import pipelines.grpo_dps
        from pathlib import Path
        from pipelines.rollout.processors import load_processors
        heavy = ("torch", "deepspeed", "vllm", "sklearn", "pandas")
        assert not [name for name in (*heavy, "transformers") if name in sys.modules]
        tokenizer, _ = load_processors({str(tiny_policy)!r}, None, None, Path({str(tmp_path)!r}))
        assert tokenizer("1+2=", add_special_tokens=False)["input_ids"]
        assert not [name for name in heavy if name in sys.modules]
    """
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_tokenizer_that_has_changed_is_found_again(model, tmp_path, found):
    load_processors(str(model), None, None, tmp_path)
    file = model / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["1"], vocabulary["2"] = vocabulary["2"], vocabulary["1"]
    file.write_text(json.dumps(content))
    changed = load_processors(str(model), None, None, tmp_path).tokenizer
    assert len(found) == len(entries(tmp_path)) == 2
    assert tokens(changed) == tokens(AutoTokenizer.from_pretrained(model))


def test_weights_that_have_changed_change_nothing(model, tmp_path, found):
    load_processors(str(model), None, None, tmp_path)
    (model / "model.safetensors").write_bytes(b"others")
    load_processors(str(model), None, None, tmp_path)
    assert len(found) == 1


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "add", "no checksums"])
def test_a_damaged_entry_is_made_again(damage, model, tmp_path, found):
    expected = tokens(load_processors(str(model), None, None, tmp_path).tokenizer)
    (name,) = entries(tmp_path)
    entry = tmp_path / "tokenizers" / name
    file = entry / "tokenizer.json"
    content = file.read_bytes()
    match damage:
        case "flip":
            file.write_bytes(content.replace(b'"1"', b'"2"', 1))
        case "cut":
            file.write_bytes(content[: len(content) // 2])
        case "remove":
            file.unlink()
        case "add":
            (entry / "added_tokens.json").write_text('{"1+2": 5}')
        case "no checksums":
            (entry / "checksums.json").write_text("{")
    assert tokens(load_processors(str(model), None, None, tmp_path).tokenizer) == expected
    assert tokens(load_processors(str(model), None, None, tmp_path).tokenizer) == expected
    assert len(found) == 2
    assert entries(tmp_path) == [name]


def test_a_given_chat_template_is_not_kept(model, tmp_path):
    given = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
    for _ in range(2):
        assert load_processors(str(model), given, None, tmp_path).tokenizer.chat_template == given
    own = load_processors(str(model), None, None, tmp_path).tokenizer.chat_template
    assert own == AutoTokenizer.from_pretrained(model).chat_template


def test_a_kept_tokenizer_without_a_chat_template_is_refused_as_well(model, tmp_path):
    (model / "chat_template.jinja").unlink()
    for _ in range(2):
        with pytest.raises(ModelError, match="has no chat template"):
            load_processors(str(model), None, None, tmp_path)
    assert len(entries(tmp_path)) == 1


def test_a_tokenizer_with_code_of_its_own_is_not_kept(model, tmp_path):
    class Own(type(AutoTokenizer.from_pretrained(model))):
        def _encode_plus(self, *arguments, **options):
            return super()._encode_plus(*arguments, **options)

    entry = tmp_path / "tokenizers" / "entry"
    processors._keep(Own.from_pretrained(model), entry)
    assert not entry.exists()
    processors._keep(AutoTokenizer.from_pretrained(model), entry)
    assert entry.exists()


def test_a_model_that_takes_images_is_read_each_time(vision_policy, tmp_path, found):
    for _ in range(2):
        assert load_processors(str(vision_policy), None, None, tmp_path).images is not None
    assert len(found) == 2


def test_without_a_place_to_keep_it_a_tokenizer_is_found_each_time(model, tmp_path, found):
    (tmp_path / "file").write_text("")
    for _ in range(2):
        load_processors(str(model), None, None, tmp_path / "file")
    assert len(found) == 2


def test_the_tokenizers_used_last_are_kept(tiny_policy, tmp_path, monkeypatch):
    monkeypatch.setattr(processors, "_ENTRIES", 2)
    for name in "abc":
        folder = shutil.copytree(tiny_policy, tmp_path / name)
        load_processors(str(folder), None, None, tmp_path)
    kept = entries(tmp_path)
    assert len(kept) == 2
    load_processors(str(tmp_path / "c"), None, None, tmp_path)
    assert entries(tmp_path) == kept
