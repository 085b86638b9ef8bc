"""A random vision-language policy, for trying a pipeline with."""

import pytest

from actors.images import load_image_inputs
from pipelines.prepare import main


@pytest.mark.parametrize("options", [[], ["--tied"]])
def test_a_seed_decides_the_weights_and_the_folder_is_one_that_is_shown_images(
    tmp_path, capsys, options
):
    for name, seed in (("a", "1"), ("again", "1"), ("b", "2")):
        out = tmp_path / name
        assert main(["tiny-vision", "--out", str(out), "--seed", seed, *options]) == 0
        assert f"model.path={out}" in capsys.readouterr().out
    a, again, b = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "again", "b")
    )
    assert a == again != b
    inputs = load_image_inputs(str(tmp_path / "a"), max_pixels=None)
    assert inputs is not None
    assert inputs.tokens(56, 84) == 6


def test_a_folder_with_files_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["tiny-vision", "--out", str(tmp_path)]) == 2
    assert "name another folder, or add --force" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
