"""What is wrong with the input is said in a line, before any actor starts."""

import json
import re
import shlex
from pathlib import Path

import pytest
import ray

from dps_ray.config import Config, settings
from pipelines.grpo_dps import main
from pipelines.rollout.processors import load_tokenizer
from tests.network import closed_port


@pytest.fixture
def refused(tmp_path, tiny_policy, chains, capsys):
    """Run the main job with these overrides; what it says as it refuses."""

    def attempt(*overrides: str) -> str:
        arguments = [
            "--config=arithmetic",
            f"folder={tmp_path / 'run'}",
            f"model.path={tiny_policy}",
            f"data.train={chains[0]}",
            f"data.test={chains[1]}",
            *overrides,
        ]
        assert main(arguments) == 2
        assert not ray.is_initialized()
        return capsys.readouterr().err

    return attempt


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("loop.stepz=3", "did you mean loop.steps?"),
        ("data.train=nowhere.parquet", "nowhere.parquet"),
        ("data.train=builtin:chess", "built in are builtin:arithmetic, builtin:countdown, "),
        ("model.path=./models/nowhere", "model.path=./models/nowhere: there is no such folder"),
        ("data.reward=json:no_such_function", "no_such_function"),
        ("data.reward=no_such_module:f", "no_such_module"),
        ("loop.batch_size=121", "larger than the pool of 120 prompts; set it to 120 or less"),
        ("method=dps selector.candidates=0.1", "about 12 of 120 prompts to rank for a batch of 16"),
        ("data.id_column=uid", "uid"),
        ("resume=nowhere", "that is no checkpoint"),
        ("report.compared_with=nowhere", "holds neither curves.csv nor metrics.jsonl: give the"),
    ],
)
def test_a_wrong_setting_is_named(refused, override, said):
    assert said in refused(*override.split())


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return None", "returned None"),
        ("return extra_info['difficulty']", "raised KeyError: 'difficulty'"),
        ("import no_such_library", "No module named 'no_such_library'"),
        ("import os; os._exit(3)", "ended its process with status 3"),
    ],
)
def test_a_reward_function_that_cannot_work_is_refused_with_the_prompt(
    refused, tmp_path, body, said
):
    file = tmp_path / "mine.py"
    file.write_text(f"def reward(solution_str, extra_info):\n    {body}\n")
    message = refused(f"data.reward={file}:reward")
    assert said in message
    assert "prompt " in message


def test_data_that_the_built_in_tasks_do_not_know_is_refused(refused, tmp_path, chains):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pq.read_table(chains[0])
    place = rows.column_names.index("data_source")
    riddles = rows.set_column(place, "data_source", pa.array(["riddles"] * len(rows)))
    pq.write_table(riddles, tmp_path / "riddles.parquet")
    said = refused(f"data.train={tmp_path / 'riddles.parquet'}")
    assert "no built-in reward for data_source 'riddles'" in said


@pytest.mark.parametrize("key", ["folder", "checkpoint.storage"])
def test_a_folder_that_cannot_be_is_named_before_anything_is_read(refused, tmp_path, key):
    (tmp_path / "taken").write_text("")
    said = refused(f"{key}={tmp_path}/taken/run", "data.train=nowhere.parquet")
    assert said.startswith(f"error: {key}={tmp_path}/taken/run cannot be written to: ")


def test_a_model_that_is_named_and_cannot_be_looked_up_is_no_traceback(refused, monkeypatch):
    from huggingface_hub import constants

    with closed_port() as port:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        assert f"127.0.0.1:{port} cannot be asked for it" in refused("model.path=models/nowhere")


def test_prompts_over_the_limit_are_an_error_when_that_is_asked_for(refused):
    said = refused("data.max_prompt_length=8", "data.overlong_prompts=error")
    assert "more than data.max_prompt_length=8" in said


def test_a_pool_of_which_no_prompt_fits_is_an_error(refused):
    assert "longer than data.max_prompt_length=1 tokens" in refused("data.max_prompt_length=1")


def test_an_empty_pool_is_an_error_that_names_the_file(refused, tmp_path, chains):
    import pyarrow.parquet as pq

    empty = tmp_path / "empty.parquet"
    pq.write_table(pq.read_table(chains[0]).slice(0, 0), empty)
    assert "empty.parquet" in refused(f"data.train={empty}")


def test_test_prompts_in_the_training_pool_are_refused(refused, chains):
    assert "20 prompts of data.test" in refused(f"data.train=[{chains[0]}, {chains[1]}]")


def test_a_model_that_cannot_be_saved_is_refused_before_the_run(refused, monkeypatch, tmp_path):
    from transformers import PreTrainedTokenizerBase

    def save_pretrained(tokenizer, folder, **options):
        raise ValueError("no vocabulary to save")

    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", save_pretrained)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # where no tokenizer is kept yet
    said = refused()
    assert "transformers cannot save what it loads from tokenizer_config.json" in said
    assert "ValueError: no vocabulary to save" in said


def test_a_model_without_a_chat_template_says_what_to_set(refused, tiny_policy, tmp_path):
    import shutil

    model = tmp_path / "plain"
    shutil.copytree(tiny_policy, model)
    (model / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer = json.loads((model / "tokenizer_config.json").read_text())
    tokenizer.pop("chat_template", None)
    (model / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    said = refused(f"model.path={model}")
    (advice,) = re.findall(r"'model.chat_template=.*'", said)
    (override,) = shlex.split(advice)
    tokenizer = load_tokenizer(str(model), settings.load(None, [override]).model.chat_template)
    messages = [{"role": "user", "content": "1+1"}, {"role": "user", "content": "=?"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "<bos>1+1=?"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("shots.jinja", "model.chat_template=shots.jinja: there is no such file"),
        ("{% for m in messages %}{{ m.content }}", "row 0: Unexpected end of template"),
        ("{{ raise_exception('no user here') }}", "row 0: no user here"),
    ],
)
def test_a_chat_template_that_writes_no_prompt_is_refused(refused, template, said):
    assert said in refused(f"model.chat_template={json.dumps(template)}")


@pytest.mark.slow
@pytest.mark.starts_ray
def test_a_gpu_that_is_not_there_is_an_error_and_no_hang(refused):
    said = refused("resources.rollout.gpus_per_engine=1", "resources.learner.gpus_per_rank=1")
    assert "asks for 2 GPUs" in said


@pytest.mark.parametrize(
    ("arguments", "longest"),
    [
        ([], 32),
        (["method=uniform"], 32),
        (["data.train=mine.parquet"], Config().data.max_prompt_length),
        (["--config", "arithmetic", "data.train=mine.parquet"], 32),
    ],
)
def test_the_built_in_task_lends_its_settings_to_no_other_data(capsys, arguments, longest):
    assert main(["--print-config", *arguments]) == 0
    assert f"max_prompt_length: {longest}\n" in capsys.readouterr().out


def test_help_lists_every_setting_and_print_config_shows_the_result(capsys, tmp_path):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "learner.max_tokens_per_micro_batch=16384" in text
    assert main(["--print-config", "loop.steps=7", f"folder={tmp_path}"]) == 0
    assert "steps: 7" in capsys.readouterr().out


def test_prompts_that_are_strings_become_messages_and_that_is_said_once(tiny_policy, tmp_path):
    from io import StringIO

    from rich.console import Console

    from dps_ray.prompts.files import write_prompts
    from pipelines.monitoring.view import LineView
    from pipelines.training.inputs import prepare

    truth = {"style": "rule", "ground_truth": "2"}
    for name, start in (("train", 10), ("test", 30)):
        rows = [
            {"data_source": "arithmetic", "prompt": f"{i}-9=", "reward_model": truth}
            for i in range(start, start + 20)
        ]
        write_prompts(tmp_path / f"{name}.parquet", rows)
    overrides = [
        f"folder={tmp_path / 'run'}",
        f"model.path={tiny_policy}",
        f"data.train={tmp_path / 'train.parquet'}",
        f"data.test={tmp_path / 'test.parquet'}",
        "loop.batch_size=16",
    ]
    said = StringIO()
    view = LineView(1, Console(file=said, width=1000), lambda: 0.0)
    inputs = prepare(settings.load(None, overrides), view)
    [line] = [line for line in said.getvalue().splitlines() if "are strings" in line]
    assert f"{tmp_path / 'train.parquet'} and 1 more are strings; each becomes one message" in line
    [prompt] = inputs.pool.prompts(inputs.pool.ids[:1])
    assert prompt.messages == [{"role": "user", "content": "10-9="}]


def test_samples_of_a_pool_are_from_all_over_it(tiny_policy, chains):
    from dps_ray.prompts.dataset import PromptTable
    from pipelines.rollout.pool import PromptPool
    from pipelines.rollout.processors import load_tokenizer

    tokenizer = load_tokenizer(str(tiny_policy), None)
    table = PromptTable.open(Path(chains[0]))
    pool = PromptPool(table, tokenizer, None, Config(), lambda *_: None)
    assert [prompt.id for prompt in pool.samples(4)] == table.ids[[0, 30, 60, 90]].tolist()
    pool.ids = pool.ids[:3]
    assert [prompt.id for prompt in pool.samples(4)] == table.ids[:3].tolist()


def test_overlong_prompts_are_skipped_and_counted(tiny_policy, chains):
    from dps_ray.prompts.dataset import PromptTable
    from pipelines.rollout.pool import PromptPool
    from pipelines.rollout.processors import load_tokenizer

    config = settings.load(None, ["data.max_prompt_length=8"])
    tokenizer = load_tokenizer(str(tiny_policy), None)
    pool = PromptPool(PromptTable.open(Path(chains[0])), tokenizer, None, config, lambda *_: None)
    lengths = [len(r.tokens) for r in pool.encoder.requests(pool.prompts(pool.table.ids))]
    assert 0 < pool.skipped == sum(length > 8 for length in lengths)
    assert len(pool.ids) + pool.skipped == 120
