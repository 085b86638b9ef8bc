"""The pools that starts are measured with, and that a restart with other shards selects the same."""

import json

import pytest

from benchmarks import elastic, scale, startup_data
from benchmarks.startup_data import MOST, TESTS, pool_files
from dps_ray.prompts.dataset import PromptTable, overlap
from dps_ray.tasks import compute_score


@pytest.fixture
def small_files(monkeypatch):
    monkeypatch.setattr(startup_data, "ROWS_PER_FILE", 1500)


@pytest.mark.usefixtures("small_files")
def test_no_prompt_of_a_pool_occurs_twice_or_is_in_the_test_set(tmp_path):
    files = pool_files(tmp_path, 4000)
    assert [path.name for path in files.train] == [f"train-{i:03}.parquet" for i in range(3)]
    train, test = PromptTable.open(files.train), PromptTable.open(files.test)
    assert (len(train), len(test)) == (4000, TESTS)
    assert len(set(train.texts(train.ids))) == 4000
    assert overlap(train, test) == 0


@pytest.mark.usefixtures("small_files")
def test_files_that_are_there_are_not_written_again(tmp_path):
    files = pool_files(tmp_path, 2000)
    before = [path.stat().st_ino for path in files.train]
    assert pool_files(tmp_path, 2000) == files
    assert [path.stat().st_ino for path in files.train] == before


def test_the_verifier_takes_the_ground_truths(tmp_path):
    table = PromptTable.open(pool_files(tmp_path, 10).train)
    for prompt in table.rows(table.ids):
        wrong = compute_score(prompt.data_source, "<answer>1</answer>", prompt.ground_truth)
        assert wrong == {"score": 0.1, "acc": 0.0}


def test_more_prompts_than_there_are_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="there are 88,528,781 different ones; ask for fewer"):
        pool_files(tmp_path, MOST + 1)


@pytest.mark.parametrize("method", scale.METHODS)
def test_what_a_store_costs_grows_with_its_prompts(method):
    small, large = (scale.in_a_process(method, held, 0) for held in (20_000, 400_000))
    assert small.held < large.held
    assert small.bytes < large.bytes
    assert min(large.step_milliseconds, large.snapshot_bytes, large.proposal_bytes) > 0
    assert f"| {method} | 400,000 |" in scale.measured_table([small, large])
    assert scale.derived_table([small, large]).count(f"| {method} | 10^9 |") == len(scale.SHARDS)


@pytest.mark.slow
def test_restarts_with_other_shards_select_the_same_prompts(tmp_path, tiny_policy, capsys):
    options = ["--folder", str(tmp_path), "--model", str(tiny_policy), "--prompts", "3000"]
    file = tmp_path / "starts.json"
    assert (
        elastic.main([*options, "--repeats", "1", "--shards", "2", "3", "--json", str(file)]) == 0
    )
    assert "selections are equal" in capsys.readouterr().out
    starts = json.loads(file.read_text())
    assert [start["way"] for start in starts] == ["2 to 3 shards", "2 to 2 shards"]
    assert all(start["prompts"] == 3000 and start["peak_mib"] > 0 for start in starts)
