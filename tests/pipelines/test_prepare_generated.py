"""Generated data sets: no repeats, the same by seed, ready to train on, and whole or not there."""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dps_ray.prompts.dataset import PromptTable, overlap
from dps_ray.tasks import compute_score
from pipelines.data import builtin
from pipelines.data.prepare import rows, sums
from pipelines.data.prepare.distinct import Seen, by_level
from pipelines.prepare import main

GENERATED = ["arithmetic", "calculator", "countdown", "countdown4", "guess_the_number", "sums"]
SMALL = ["--train", "60", "--test", "20"]


def prepare(task: str, out: Path, *options: str) -> int:
    return main([task, "--out", str(out), *options])


def read(file: Path) -> list:
    table = PromptTable.open(file)
    return table.rows(table.ids)


@pytest.mark.parametrize("task", GENERATED)
def test_a_task_is_two_files_that_training_opens_and_the_command_for_it(task, tmp_path, capsys):
    assert prepare(task, tmp_path / "data", *SMALL) == 0
    train, test = tmp_path / "data" / "train.parquet", tmp_path / "data" / "test.parquet"
    assert (len(read(train)), len(read(test))) == (60, 20)
    assert overlap(PromptTable.open(train), PromptTable.open(test)) == 0
    assert pq.read_schema(train).names == [
        *("data_source", "prompt", "ability", "reward_model", "extra_info")
    ]
    assert [p.extra_info["index"] for p in read(test)] == list(range(20))
    assert {p.extra_info["split"] for p in read(train)} == {"train"}
    said = capsys.readouterr().out
    assert f"python -m pipelines.grpo_dps data.train={train} data.test={test}" in said


@pytest.mark.parametrize("task", GENERATED)
def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(task, tmp_path):
    def written(folder: str, seed: str) -> list[bytes]:
        assert prepare(task, tmp_path / folder, *SMALL, "--seed", seed) == 0
        return [file.read_bytes() for file in sorted((tmp_path / folder).iterdir())]

    assert written("a", "1") == written("b", "1")
    assert written("a2", "1") != written("c", "2")


@pytest.mark.parametrize("task", GENERATED)
def test_no_prompt_occurs_twice(task, tmp_path):
    assert prepare(task, tmp_path / "data", *SMALL) == 0
    everything = [p for f in (tmp_path / "data").iterdir() for p in read(f)]
    assert len({p.messages[-1]["content"] for p in everything}) == 80


def test_the_built_in_data_is_what_it_always_was(tmp_path):
    # Folders are named by a hash of the rows; experiments that were published stand on these.
    assert builtin.ensure_arithmetic(tmp_path)[0].parent.name == "arithmetic-b59b500bb7c9"
    assert builtin.ensure_countdown(tmp_path)[0].parent.name == "countdown-8d4e9c4025e9"
    base = builtin.ensure_countdown(tmp_path, style="base")[0]
    assert base.parent.name == "countdown-81cb0deba5fd"


def test_by_default_arithmetic_is_the_built_in_data(tmp_path):
    assert prepare("arithmetic", tmp_path / "data") == 0
    for file in builtin.ensure_arithmetic(tmp_path / "cache"):
        assert pq.read_table(file) == pq.read_table(tmp_path / "data" / file.name)


# Countdown


@pytest.mark.parametrize(("task", "counts"), [("countdown", {3, 4}), ("countdown4", {4})])
def test_countdown_has_as_many_numbers_as_its_name_says(task, counts, tmp_path):
    assert prepare(task, tmp_path / "data", *SMALL) == 0
    for prompt in read(tmp_path / "data" / "train.parquet"):
        truth = json.loads(prompt.ground_truth)
        assert len(truth["numbers"]) == prompt.extra_info["numbers"]
        assert str(truth["numbers"]) in prompt.messages[-1]["content"]
    found = {p.extra_info["numbers"] for p in read(tmp_path / "data" / "train.parquet")}
    assert found == counts


def test_countdown_is_the_built_in_data_by_default_and_has_a_prompt_for_base_models(tmp_path):
    assert prepare("countdown", tmp_path / "chat") == 0
    for file in builtin.ensure_countdown(tmp_path / "cache"):
        assert pq.read_table(file) == pq.read_table(tmp_path / "chat" / file.name)
    assert prepare("countdown", tmp_path / "base", "--style", "base", *SMALL) == 0
    for prompt in read(tmp_path / "base" / "train.parquet"):
        (message,) = prompt.messages
        assert message["content"].endswith("<think>")


@pytest.mark.parametrize("numbers", ["nums", "numbers"])
def test_countdown_problems_of_a_users_file(numbers, tmp_path):
    rows = [{"target": 24 + i, numbers: [4, 6, 1 + i]} for i in range(30)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "mine.parquet")
    mine = ("--from", str(tmp_path / "mine.parquet"), "--test", "10")
    assert prepare("countdown", tmp_path / "data", *mine) == 0
    train, test = (read(tmp_path / "data" / f"{name}.parquet") for name in ("train", "test"))
    assert (len(train), len(test)) == (20, 10)
    truths = [json.loads(p.ground_truth) for p in train + test]
    assert sorted(truth["target"] for truth in truths) == list(range(24, 54))
    right = compute_score(
        "countdown", "<answer>4 * 6 * 1</answer>", {"target": 24, "numbers": [4, 6, 1]}
    )
    assert right["acc"] == 1.0


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"target": None, "nums": [1, 2]}, "row 3, column 'target': is None"),
        ({"target": 1.5, "nums": [1, 2]}, "row 3, column 'target': is 1.5"),
        ({"target": 3, "nums": None}, "row 3, column 'nums': is None"),
        ({"target": 3, "nums": []}, "row 3, column 'nums': is []"),
        ({"target": 3, "nums": [1, "2"]}, "row 3, column 'nums': is [1, '2']"),
        ({"target": 3, "nums": "1 2"}, "row 3, column 'nums': is '1 2'"),
        ({"target": 3, "nums": [5, -2]}, "row 3, column 'nums': is [5, -2]"),
    ],
)
def test_a_bad_countdown_row_is_named_and_nothing_is_left(row, said, tmp_path, capsys):
    file = tmp_path / "mine.jsonl"
    rows = [{"target": 3 + i, "nums": [1, 2 + i]} for i in range(3)]
    file.write_text("".join(json.dumps(r) + "\n" for r in [*rows, row]))
    assert prepare("countdown", tmp_path / "data", "--from", str(file), "--test", "1") == 2
    assert f"{file}, {said}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [file]


def test_countdown_without_its_columns_is_an_error_that_names_them(tmp_path, capsys):
    (tmp_path / "mine.jsonl").write_text('{"goal": 3, "nums": [1, 2]}')
    assert prepare("countdown", tmp_path / "data", "--from", str(tmp_path / "mine.jsonl")) == 2
    assert "mine.jsonl has no column 'target' (it has: goal, nums)" in capsys.readouterr().err


# Plain arithmetic


@pytest.mark.parametrize("style", sums.TEMPLATES)
def test_sums_are_answered_by_their_ground_truth(style, tmp_path):
    assert prepare("sums", tmp_path / "data", *SMALL, "--style", style) == 0
    for prompt in read(tmp_path / "data" / "train.parquet"):
        scored = compute_score(prompt.data_source, prompt.ground_truth, prompt.ground_truth)
        assert scored == {"score": 1.0, "acc": 1.0}


def test_sums_take_the_levels_that_are_asked_for_in_turn(tmp_path):
    assert prepare("sums", tmp_path / "d", *SMALL, "--levels", "sums-2", "products-1") == 0
    levels = Counter(p.extra_info["level"] for p in read(tmp_path / "d" / "train.parquet"))
    assert levels == {"sums-2": 30, "products-1": 30}


def test_worked_examples_come_first_and_are_never_what_is_asked(tmp_path):
    options = ("--levels", "products-1", "--shots", "3", "--train", "50", "--test", "11")
    assert prepare("sums", tmp_path / "d", *options) == 0  # all of the 64 that are no examples
    for prompt in read(tmp_path / "d" / "train.parquet"):
        assert [m["role"] for m in prompt.messages] == ["user", "assistant"] * 3 + ["user"]
        for question, answer in zip(prompt.messages[:-1:2], prompt.messages[1::2], strict=True):
            expression = question["content"].removeprefix("What is ").removesuffix("?")
            assert answer["content"] == f"{expression} = {eval(expression)}"
            assert question["content"] != prompt.messages[-1]["content"]


def test_more_than_there_are_problems_is_an_error_that_says_how_many_there_are(tmp_path, capsys):
    assert prepare("sums", tmp_path / "d", "--levels", "sums-1", "products-1") == 2
    assert "there are only 164 different prompts" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# No repeats, in bounded memory


def test_what_was_seen_is_always_known_again():
    seen = Seen()
    keys = [str(i) for i in range(20_000)]
    assert all(seen.add(key) for key in keys)
    assert not any(seen.add(key) for key in keys)


def test_levels_take_turns_until_each_is_spent():
    rng = random.Random(0)
    sizes = {"few": 3, "more": 7}
    drawn = list(by_level(sizes, lambda level: f"{level} {rng.randrange(sizes[level])}"))
    assert [level for level, _ in drawn[:6]] == ["few", "more"] * 3
    assert Counter(level for level, _ in drawn) == sizes
    assert len(set(drawn)) == 10


def test_a_level_that_says_it_has_more_than_it_has_does_not_go_on_for_ever():
    rng = random.Random(0)
    drawn = list(by_level({"only": 10}, lambda _: str(rng.randrange(4))))
    assert len(drawn) == 4


# Whole, or not there


def test_a_folder_with_files_is_left_alone_unless_told_otherwise(tmp_path, capsys):
    out = tmp_path / "data"
    out.mkdir()
    (out / "test.parquet").write_text("mine")
    (out / "notes.txt").write_text("mine too")
    assert prepare("sums", out, *SMALL) == 2
    assert "add --force" in capsys.readouterr().err
    assert (out / "test.parquet").read_text() == "mine"

    assert prepare("sums", out, *SMALL, "--force") == 0
    assert len(read(out / "test.parquet")) == 20
    assert (out / "notes.txt").read_text() == "mine too"
    assert len(list(out.iterdir())) == 3


def test_an_empty_folder_is_filled_and_missing_ones_above_are_made(tmp_path):
    (tmp_path / "empty").mkdir()
    assert prepare("sums", tmp_path / "empty", *SMALL) == 0
    assert prepare("sums", tmp_path / "deep" / "down", *SMALL) == 0
    assert sorted(f.name for f in (tmp_path / "empty").iterdir()) == [
        "test.parquet",
        "train.parquet",
    ]


def test_a_file_where_the_folder_should_be_is_an_error(tmp_path, capsys):
    (tmp_path / "data").write_text("a file")
    assert prepare("sums", tmp_path / "data", *SMALL) == 2
    assert "is a file; name a folder" in capsys.readouterr().err
    assert prepare("sums", tmp_path / "data" / "deep", *SMALL) == 2
    assert f"{tmp_path / 'data'} is a file; name a folder" in capsys.readouterr().err


def test_a_folder_that_may_not_be_written_to_is_named(tmp_path, monkeypatch, capsys):
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", denied)
    assert prepare("sums", tmp_path / "data", *SMALL) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path} cannot be written to (Permission denied); name another folder" in said


@pytest.mark.parametrize("before", [False, True])
def test_an_interrupted_run_leaves_nothing(before, tmp_path, monkeypatch, capsys):
    out = tmp_path / "deep" / "data"
    if before:
        out.mkdir(parents=True)

    def interrupted(split: rows.Split, console: object):
        for number, row in enumerate(split.rows):
            if split.name == "train" and number == 30:
                raise KeyboardInterrupt
            yield row

    monkeypatch.setattr(rows, "_shown", interrupted)
    assert prepare("sums", out, *SMALL) == 130
    assert "nothing was written" in capsys.readouterr().err
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    assert out.exists() == before


def test_a_program_that_is_told_to_stop_leaves_nothing(tmp_path):
    command = ["countdown", "--train", "10_000_000", "--out", str(tmp_path / "data")]
    started = subprocess.Popen(
        [sys.executable, "-m", "pipelines.prepare", *command], stderr=subprocess.PIPE, text=True
    )
    while not list(tmp_path.glob(".preparing-*/test.parquet")):
        assert started.poll() is None
        time.sleep(0.05)
    started.terminate()
    assert "nothing was written" in started.communicate(timeout=60)[1]
    assert started.returncode == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", ["0", "-3", "many", "1e5", "2.5"])
def test_a_size_that_is_no_size_is_refused(size, tmp_path, capsys):
    with pytest.raises(SystemExit):
        prepare("sums", tmp_path / "d", "--train", size)
    said = f"argument --train: {size!r} is no size; write a whole number from 1"
    assert said in capsys.readouterr().err
