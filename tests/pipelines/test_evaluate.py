"""`python -m pipelines.evaluate`: what is wrong is said in a line before any actor starts; and the real thing."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray

from pipelines import evaluate as program
from pipelines.evaluate import main
from pipelines.monitoring import json_lines
from pipelines.rollout.accuracy import measures
from tests.warm.cluster import joined


@pytest.fixture
def two_sets(tmp_path, chains):
    """Test sets of 12 and of 8 prompts."""
    rows = pq.read_table(chains[1])
    (tmp_path / "hard").mkdir()
    files = tmp_path / "easy.parquet", tmp_path / "hard" / "test.parquet"
    for file, part in zip(files, (rows.slice(0, 12), rows.slice(12)), strict=True):
        pq.write_table(part, file)
    return files


@pytest.fixture
def refused(tmp_path, tiny_policy, chains, capsys):
    """Evaluate with these overrides; what it says as it refuses."""

    def attempt(*overrides: str) -> str:
        given = [f"model={tiny_policy}", f"data={chains[1]}", f"folder={tmp_path / 'out'}"]
        assert (
            main([*given, "data.max_prompt_length=32", "max_response_length=56", *overrides]) == 2
        )
        assert not ray.is_initialized()
        return capsys.readouterr().err

    return attempt


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sample=3", "did you mean samples?"),
        ("eval.samples=3", "did you mean samples?"),
        ("data=nowhere.parquet", "there is no file nowhere.parquet"),
        ("data=[]", "data=[] names nothing; write data=PATH or data=[PATH,PATH]"),
        ("data=builtin:chess", "built in are builtin:arithmetic, builtin:countdown, "),
        ("data=[a/test.parquet,b/a.parquet]", "both called a; name them, as in data=[first=a/test"),
        ("model=./models/nowhere", "model.path=./models/nowhere: there is no such folder"),
        ("max_response_length=1024", "has a context of 256: lower one of them"),
        ("data.max_prompt_length=8", "more than data.max_prompt_length=8"),
        ("temperature=0", "set samples=1, or a temperature"),
        ("data.reward=json:no_such_function", "no_such_function"),
        ("resources.rollout.gpus_per_engine=0.5", "write 1 or more, or 0 for the CPU"),
        pytest.param(
            "resources.rollout.gpus_per_engine=1",
            "asks for 1 GPUs (1 engines x 1), and Ray sees 0",
            marks=[pytest.mark.slow, pytest.mark.starts_ray],
        ),
    ],
)
def test_a_wrong_setting_is_named_with_what_to_write_instead(refused, override, said):
    assert said in refused(override)


def test_a_reward_function_that_cannot_work_is_refused_with_the_prompt(refused, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def reward(solution_str, extra_info):\n    return None\n")
    said = refused(f"data.reward={file}:reward")
    assert "returned None" in said
    assert "prompt " in said


def test_what_must_be_set_is_named(capsys):
    assert main(["samples=3"]) == 2
    assert "model.path must be set" in capsys.readouterr().err


def test_a_run_without_a_checkpoint_is_refused(refused, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("seed: 1\n")
    assert "has no checkpoint yet" in refused(f"model={tmp_path / 'run'}")
    assert "no checkpoint of an evaluated step" in refused(
        f"model={tmp_path / 'run'}", "model.checkpoint=best"
    )


def test_help_lists_every_setting_and_print_config_shows_the_result(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert "temperature=0.6" in said
    assert "samples=16" in said
    assert main(["--print-config", "model=A", "data=[x=B.parquet,C.parquet]"]) == 0
    assert "- x=B.parquet" in capsys.readouterr().out


@pytest.fixture
def shared_ray():
    """The tests' Ray, which a program joins."""
    with joined():
        yield


@pytest.mark.slow
def test_models_are_evaluated_on_test_sets_and_nothing_is_done_twice(
    shared_ray, tmp_path, able_policy, finished, two_sets, capsys, monkeypatch
):
    """A start policy beside the newest checkpoint of a run that began with it."""
    arguments = [
        f"model=[start={able_policy},trained={finished}]",
        f"data=[{two_sets[0]},{two_sets[1]}]",
        f"folder={tmp_path / 'out'}",
        "samples=4",
        "model.dtype=float32",
        "data.max_prompt_length=32",
        "max_response_length=56",
    ]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [model["name"] for model in results["models"]] == ["start", "trained"]
    assert results["models"][1]["path"].endswith("step=00000003/model")
    for model in results["models"]:
        assert [(c["name"], c["prompts"], c["responses"]) for c in model["columns"]] == [
            ("easy", 12, 48),
            ("hard", 8, 32),
        ]
        means = [column["mean@4"]["value"] for column in model["columns"]]
        assert model["average"]["mean@4"]["value"] == pytest.approx(np.mean(means))
        assert f"{100 * np.mean(means):.1f} ±" in printed
        assert all(column["tokens"] > column["responses"] for column in model["columns"])
    files = sorted((tmp_path / "out" / "prompts").iterdir())
    assert len(files) == 4
    easy = next(file for file in files if file.name.startswith("start-easy"))
    records = json_lines.read(easy)
    column = results["models"][0]["columns"][0]
    of_prompts = measures(np.array([record["accuracies"] for record in records]))
    for name, values in of_prompts.items():
        assert column[name]["value"] == pytest.approx(values.mean())
    assert column["pass@4"]["value"] > 0

    # A kill left part of a file and a torn line: only what is missing is answered, and as before.
    content = easy.read_bytes()
    lines = content.splitlines(keepends=True)
    easy.write_bytes(b"".join(lines[:5]) + lines[5][:20])
    assert main(arguments) == 0
    again = json_lines.read(easy)
    assert easy.read_bytes().startswith(b"".join(lines[:5]))
    assert {r["prompt_id"]: r["accuracies"] for r in again} == {
        r["prompt_id"]: r["accuracies"] for r in records
    }
    said = capsys.readouterr().out
    assert "start on easy: done" in said
    assert "hard: done" not in said
    assert "trained" in said.partition("|")[2]

    # With all there, Ray is not started.
    monkeypatch.setattr(program, "connect", None)
    assert main(arguments) == 0
    last = json.loads((tmp_path / "out" / "results.json").read_text())
    for model, before in zip(last["models"], results["models"], strict=True):
        assert model["average"] == before["average"]
