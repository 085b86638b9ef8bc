"""The benchmark of a GPU, on a CPU: that every stage runs, and that one which fails costs the others nothing."""

import json

import pytest

from benchmarks.gpu import STAGES, main
from tests.warm.cluster import joined


def test_a_stage_that_there_is_not_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--stages=learner,enigne"])
    assert "there is no enigne" in capsys.readouterr().err


@pytest.mark.slow
def test_every_stage_finds_its_figures_and_one_without_its_python_says_so(tmp_path):
    with joined():
        code = main(["--tiny", f"--out={tmp_path / 'gpu.json'}", f"--stages={','.join(STAGES)}"])
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found.pop("trl") == {"error": "--trl names no Python"}
    assert code == 1
    assert not [part for part in found.values() if "error" in part]
    ways = [figures for figures in found["learner"].values() if isinstance(figures, dict)]
    assert len(ways) == 4
    assert all(figures["tokens_per_second"] > 0 for figures in ways)
    assert found["engine"]["tokens"] > 0 < found["engine-alone"]["tokens"]
    assert 0 < found["run"]["publish_share"] < 1
    assert found["run"]["logprob_difference"] < 1e-5
    assert found["recover"]["seconds"] > 0
