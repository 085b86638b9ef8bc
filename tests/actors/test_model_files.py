"""A checkpoint's model folder has the files of the start policy, those too that transformers loads and refuses to
save."""

import json
import shutil

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.model_files import ModelFiles, check_savable

# As public models have it: a temperature, and no sampling.
ODD = b'{"do_sample": false,\n "temperature": 0.6, "eos_token_id": [2, 1]}'


@pytest.fixture
def model(tmp_path, tiny_policy):
    return shutil.copytree(tiny_policy, tmp_path / "start")


def saved(model, folder):
    """What is saved of a start policy."""
    tokenizer, policy = (
        AutoTokenizer.from_pretrained(model),
        AutoModelForCausalLM.from_pretrained(model),
    )
    check_savable(str(model), tokenizer, None)
    ModelFiles(str(model), [tokenizer]).save(folder, policy, policy.state_dict())
    return folder


def test_a_generation_config_that_transformers_refuses_to_save_is_kept_byte_for_byte(
    model, tmp_path
):
    (model / "generation_config.json").write_bytes(ODD)
    with pytest.raises(ValueError, match="do_sample"):
        AutoModelForCausalLM.from_pretrained(model).save_pretrained(tmp_path / "refused")
    folder = saved(model, tmp_path / "saved")
    assert (folder / "generation_config.json").read_bytes() == ODD
    assert AutoModelForCausalLM.from_pretrained(folder).generation_config.eos_token_id == [2, 1]
    assert sorted(file.name for file in folder.iterdir()) == sorted(
        file.name for file in model.iterdir()
    )


def test_where_there_is_none_the_values_derived_from_the_config_are_kept(model, tmp_path):
    (model / "generation_config.json").unlink()
    settings = json.loads((model / "config.json").read_text())
    odd = {**settings, "temperature": 0.6, "eos_token_id": 1}
    (model / "config.json").write_text(json.dumps(odd))
    folder = saved(model, tmp_path / "saved")
    before, after = (
        AutoModelForCausalLM.from_pretrained(each).generation_config for each in (model, folder)
    )
    assert (before.temperature, before.eos_token_id) == (0.6, 1)
    assert after.to_diff_dict() == before.to_diff_dict()
