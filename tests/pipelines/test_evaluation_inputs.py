"""Which models and test sets an evaluation is of, and what they are called."""

import shutil
from pathlib import Path

import pytest

from dps_ray.config import reading
from dps_ray.config.evaluation import EvaluationConfig
from dps_ray.durable import Manifest, Segment, Storage, checkpoint_folder, claim_epoch, commit
from dps_ray.errors import CheckpointError, ModelError
from dps_ray.prompts.files import write_prompts
from pipelines.evaluation.inputs import find_benchmarks, find_models


def config(folder, *overrides):
    given = ["model.path=A", "data.test=B", f"folder={folder}", *overrides]
    return reading.load_as(EvaluationConfig, None, given)


def test_a_test_set_is_named_as_given_or_after_its_file_or_folder(tmp_path, chains):
    for name in ("aime24.parquet", "countdown/test.parquet", "hub/test-00000-of-00002.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(chains[1], tmp_path / name)
    sets = [
        f"{tmp_path}/aime24.parquet",
        f"{tmp_path}/countdown/test.parquet",
        f"{tmp_path}/hub/test-00000-of-00002.parquet",
        f"{tmp_path}/countdown/",
        f"mine={chains[1]}",
    ]
    for wanted, expected in (
        (sets[:3] + sets[4:], ["aime24", "countdown", "hub", "mine"]),
        (sets[3:], ["countdown", "mine"]),
    ):
        found = find_benchmarks(config(tmp_path, f"data.test=[{','.join(wanted)}]"), print)
        assert [benchmark.name for benchmark in found] == expected
        assert all(len(benchmark.table) == 20 for benchmark in found)


def test_test_sets_whose_prompts_are_strings_are_said_once(tmp_path):
    truth = {"style": "rule", "ground_truth": "2"}
    row = {"data_source": "sums", "prompt": "1+1=", "reward_model": truth}
    for name in ("a", "b"):
        write_prompts(tmp_path / f"{name}.parquet", [row])
    sets = f"data.test=[{tmp_path}/a.parquet,{tmp_path}/b.parquet]"
    said: list[str] = []
    find_benchmarks(config(tmp_path, sets), said.append)
    assert said == [
        f"prompts in {tmp_path}/a.parquet and 1 more are strings; each becomes one message of role user"
    ]


def test_an_equals_sign_in_a_path_names_nothing(tmp_path, tiny_policy, monkeypatch):
    folder = tmp_path / "step=00000040"
    shutil.copytree(tiny_policy, folder)
    monkeypatch.chdir(tmp_path)
    for text in (str(folder), "step=00000040", "./step=00000040"):
        (model,) = find_models(config(tmp_path, f"model.path={text}"), print)
        assert (model.name, model.path) == (text, text)
    (model,) = find_models(config(tmp_path, f"model.path=mine={folder}"), print)
    assert (model.name, model.path) == ("mine", str(folder))


def test_other_weights_under_the_same_path_are_another_model(tmp_path, tiny_policy):
    folder = tmp_path / "model"
    shutil.copytree(tiny_policy, folder)
    models = [find_models(config(tmp_path, f"model.path={folder}"), print)[0] for _ in range(2)]
    assert models[0] == models[1]
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert find_models(config(tmp_path, f"model.path={folder}"), print)[0] != models[0]


@pytest.fixture
def run(tmp_path):
    """The folder of a run with three checkpoints, of which the second is the most accurate."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("seed: 1\n")
    storage = Storage.at(folder)
    claim_epoch(storage)
    for step, accuracy in ((10, 0.1), (20, 0.3), (30, 0.2)):
        model = f"{checkpoint_folder(1, step)}/model"
        manifest = Manifest(
            epoch=1,
            step=step,
            files=(storage.write(f"{model}/config.json", f"{step}".encode()),),
            lineage=(Segment(1, 0),),
            dataset_fingerprint="f00d",
            config_hash="c0de",
            weight_version=step,
            belief_shards=1,
            learner_ranks=1,
            zero_stage=1,
            deepspeed_tag="",
            accuracy=accuracy,
        )
        commit(storage, manifest)
    return folder


def found(tmp_path, run, *overrides, tell=print):
    (model,) = find_models(config(tmp_path, f'model.path="{run}"', *overrides), tell)
    return Path(model.path).parent.name


def test_of_a_run_the_newest_checkpoint_is_taken_or_the_best(tmp_path, run):
    assert found(tmp_path, run) == "step=00000030"
    assert found(tmp_path, run, "model.checkpoint=best") == "step=00000020"


def test_a_run_may_have_moved_to_a_folder_of_any_name(tmp_path, run):
    moved = run.rename(tmp_path / "seed: 2 #x")
    assert found(tmp_path, moved) == "step=00000030"


def test_a_checkpoint_that_was_altered_is_passed_over_with_a_word_or_refused(tmp_path, run):
    for step in (20, 30):
        (run / checkpoint_folder(1, step) / "model" / "config.json").write_text("x")
    said: list[str] = []
    assert found(tmp_path, run, tell=said.append) == "step=00000010"
    assert ["refused" in line for line in said] == [True, True]
    with pytest.raises(CheckpointError, match="step=00000020/model"):
        found(tmp_path, run, "model.checkpoint=best")
    (run / checkpoint_folder(1, 10) / "model" / "config.json").unlink()
    with pytest.raises(ModelError, match="none of the 3 checkpoints"):
        found(tmp_path, run)
