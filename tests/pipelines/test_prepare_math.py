"""Problems with answers from a user's files: what is read as the answer, and what is said of bad rows."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dps_ray.prompts.dataset import PromptTable, overlap
from pipelines.data.prepare.records import Records
from pipelines.prepare import main
from tests.arrow_types import write_with_types

MATH = Path(__file__).parents[3] / "shared" / "data" / "math"
SETS = {
    "aime24": ("test_aime.json", 30),
    "amc23": ("test_amc.json", 83),
    "math500": ("test_math.json", 500),
    "minerva": ("test_minerva.json", 272),
    "olympiad_bench": ("test_olympiad_bench.json", 675),
}

ROWS = [{"problem": f"What is ${i}+{i}$?", "answer": str(2 * i), "level": 1} for i in range(20)]


@pytest.fixture
def prepare(tmp_path):
    """Run it on rows; the exit code. `out` is where it writes."""

    def run(rows: object, *options: str, name: str = "mine.json") -> int:
        file = tmp_path / name
        if isinstance(rows, str):
            file.write_text(rows)
        elif name.endswith(".json"):
            file.write_text(json.dumps(rows))
        elif name.endswith(".jsonl"):
            file.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
        else:
            pq.write_table(pa.Table.from_pylist(rows), file)
        return main(
            ["math", "--from", str(file), "--out", str(tmp_path / "out"), "--test", "4", *options]
        )

    return run


@pytest.fixture
def refused(prepare, tmp_path, capsys):
    """Run it on bad rows; what is said, after a look that nothing is left."""

    def run(rows: object, *options: str, name: str = "mine.json") -> str:
        assert prepare(rows, *options, name=name) == 2
        assert sorted(tmp_path.iterdir()) == [tmp_path / name]
        return capsys.readouterr().err

    return run


def read(file: Path) -> list:
    table = PromptTable.open(file)
    return table.rows(table.ids)


@pytest.mark.parametrize("name", ["mine.json", "mine.jsonl", "mine.parquet"])
def test_any_of_the_formats_becomes_train_and_test_without_overlap(name, prepare, tmp_path, capsys):
    assert prepare(ROWS, name=name) == 0
    train, test = tmp_path / "out" / "train.parquet", tmp_path / "out" / "test.parquet"
    assert f"data.train={train} data.test={test}" in capsys.readouterr().out
    assert overlap(PromptTable.open(train), PromptTable.open(test)) == 0
    prompts = read(train) + read(test)
    assert len(prompts) == 20
    truths = {p.messages[0]["content"]: p.ground_truth for p in prompts}
    assert truths == {
        f"What is ${i}+{i}$? Let's think step by step and output the final answer within \\boxed{{}}.": str(
            2 * i
        )
        for i in range(20)
    }
    assert {p.data_source for p in prompts} == {"math"}
    assert {p.extra_info["level"] for p in prompts} == {"1"}


def test_which_rows_are_held_out_depends_on_the_seed_alone(prepare, tmp_path):
    def held_out(seed: str) -> bytes:
        assert prepare(ROWS, "--seed", seed, "--force") == 0
        return (tmp_path / "out" / "test.parquet").read_bytes()

    assert held_out("1") == held_out("1") != held_out("2")


@pytest.mark.parametrize(
    ("row", "truth"),
    [
        ({"problem": "p", "answer": 142.0}, "142"),
        ({"problem": "p", "answer": 0.5}, "0.5"),
        ({"problem": "p", "answer": -4}, "-4"),
        ({"problem": "p", "answer": " 96\n"}, "96"),
        ({"question": "p", "answer": "6 * 7 = <<6*7=42>>42\n#### 42"}, "42"),
        ({"problem": "p", "solution": r"so \boxed{1} or $\boxed{\frac{1}{2}}$."}, r"\frac{1}{2}"),
        ({"problem": "p", "solution": ["no box here", r"\boxed{2}"]}, "2"),
        ({"problem": "p", "solution": r"it is $\boxed 7$, by symmetry"}, "7"),
        (
            {"problem": "p", "answer": r"\boxed{1}, no, \boxed{\{1, \frac{1}{2}\}}"},
            r"\{1, \frac{1}{2}\}",
        ),
        ({"problem": "p", "answer": r"\boxed{1 \\}"}, r"1 \\"),
        ({"problem": "p", "answer": r"\boxed{" + "12+" * 1_000 + "1}"}, "12+" * 1_000 + "1"),
        ({"problem": "p", "answer": "3", "solution": r"\boxed{4}"}, "3"),
        ({"problem": "p", "answer": ["9.6\n"]}, "9.6"),
        ({"problem": "p", "answer": ["2\n", "2"]}, "2"),
        ({"prompt": "p", "ground_truth": "x"}, "x"),
    ],
)
def test_what_is_read_as_the_answer(row, truth, prepare, tmp_path):
    key = next(k for k in row if k in ("problem", "question", "prompt"))
    rows = [row, {**row, key: "q"}]
    assert prepare(rows, "--test", "1") == 0
    found = read(tmp_path / "out" / "train.parquet") + read(tmp_path / "out" / "test.parquet")
    assert [p.ground_truth for p in found] == [truth, truth]


def test_several_accepted_answers_make_the_column_one_of_lists(prepare, tmp_path):
    rows = [*ROWS, {"problem": "p", "answer": ["0.01", "0.02"]}]
    assert prepare(rows) == 0
    found = read(tmp_path / "out" / "train.parquet") + read(tmp_path / "out" / "test.parquet")
    truths = sorted((p.ground_truth for p in found), key=len)
    assert truths[-1] == ["0.01", "0.02"]
    assert ["38"] in truths


def test_columns_of_any_name_and_another_instruction(prepare, tmp_path):
    rows = [{"q": f"q{i}", "a": i} for i in range(9)]
    options = ("--problem-column", "q", "--answer-column", "a", "--instruction", "")
    assert prepare(rows, *options, "--data-source", "gaokao") == 0
    for prompt in read(tmp_path / "out" / "train.parquet"):
        assert prompt.messages == [{"role": "user", "content": f"q{prompt.ground_truth}"}]
        assert prompt.data_source == "gaokao"


def test_a_data_source_without_a_verifier_is_pointed_out(prepare, capsys):
    assert prepare(ROWS, "--data-source", "gaokao") == 0
    assert "no built-in verifier for gaokao" in capsys.readouterr().out


def test_what_is_tested_is_left_out_of_training(prepare, tmp_path, capsys):
    (tmp_path / "test.jsonl").write_text(json.dumps(ROWS[7]))
    assert prepare(ROWS, "--test-from", f"math500={tmp_path / 'test.jsonl'}") == 0
    assert len(read(tmp_path / "out" / "train.parquet")) == 19
    assert [p.data_source for p in read(tmp_path / "out" / "math500.parquet")] == ["math500"]
    assert "left out: 1 rows of train that are in a test set too" in capsys.readouterr().out


def test_no_more_than_asked_for_are_trained_on(prepare, tmp_path):
    assert prepare(ROWS, "--train", "5") == 0
    assert len(read(tmp_path / "out" / "train.parquet")) == 5


# Bad input: file, row and column are named, and nothing is left


@pytest.mark.parametrize("answer", [None, "", "  ", [], float("nan"), r"\boxed{\frac{1}{2}"])
def test_a_missing_answer_names_file_row_and_column(answer, refused, tmp_path):
    said = refused([*ROWS[:9], {"problem": "p", "answer": answer}])
    assert f"{tmp_path / 'mine.json'}, row 9, column 'answer': has no answer" in said
    assert "--skip-unanswered" in said


def test_rows_without_an_answer_are_left_out_when_that_is_asked_for(prepare, tmp_path, capsys):
    assert prepare([{"problem": "p", "answer": None}, *ROWS], "--skip-unanswered") == 0
    left = [len(read(tmp_path / "out" / f"{name}.parquet")) for name in ("train", "test")]
    assert sum(left) == 20
    assert "1 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"problem": None, "answer": "1"}, "row 20, column 'problem': is 'None', no text"),
        ({"problem": " ", "answer": "1"}, "row 20, column 'problem': holds no text"),
        ({"problem": "p", "answer": {"a": 1}}, "row 20, column 'answer': is \"{'a': 1}\""),
        ({"problem": "p", "answer": True}, "row 20, column 'answer': is 'True'"),
        (["p", "1"], "row 20 is \"['p', '1']\", no object"),
    ],
)
def test_a_bad_row_is_named(bad, said, refused, tmp_path):
    assert f"{tmp_path / 'mine.json'}, {said}" in refused([*ROWS, bad])


def test_a_solution_without_a_box_is_no_answer(refused):
    said = refused([{"problem": "p", "solution": "it is obvious"}] * 9)
    assert r"row 0, column 'solution': has no \boxed{}" in said


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("", "mine.json", "is empty (0 bytes)"),
        ("[]", "mine.json", "has no rows"),
        ("[" * 100_000, "mine.json", "cannot be read: maximum recursion depth"),
        ("[" * 100_000, "mine.jsonl", "row 0 (line 1) is not JSON: maximum recursion depth"),
        (
            '[{"problem": "p", "answer": ' + "9" * 5_000 + "}]",
            "mine.json",
            "cannot be read: Exceeds",
        ),
        ('[{"problem": "p", "answer": "\\ud83d"}]', "mine.json", "row 0 is no text"),
        ('{"problem": "\\ud83d", "answer": "1"}', "mine.jsonl", "row 0 (line 1) is not JSON"),
        ("\n \n", "mine.jsonl", "has no rows"),
        ('{"problem": "p"}', "mine.json", "holds no list"),
        ('[{"problem": "p"},]', "mine.json", "is not JSON"),
        ('{"problem": "p"}\n{"prob', "mine.jsonl", "row 1 (line 2) is not JSON"),
        ("PAR1 and nothing more", "mine.parquet", "is not a Parquet file"),
        ("problem,answer\n", "mine.csv", "is of no known kind"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_named(text, name, said, refused, tmp_path):
    message = refused(
        text, *(() if "row 1" not in said else ("--answer-column", "problem")), name=name
    )
    assert str(tmp_path / name) in message
    assert said in message


def test_a_wrong_column_is_named_with_those_there_are(refused):
    said = refused(ROWS, "--answer-column", "anser")
    assert "mine.json has no column 'anser' (it has: problem, answer, level)" in said
    assert "--answer-column" in said
    assert "'problem' or 'question'" in refused([{"text": "p", "answer": "1"}])


def test_a_file_that_is_missing_is_named(tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    assert main(["math", "--from", "nowhere.json", *out]) == 2
    assert "there is no file nowhere.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("aime.json", "write NAME=FILE"),
        ("train=a.json", "is taken"),
        ("a/b=c.json", "write NAME=FILE"),
    ],
)
def test_test_sets_have_names(option, said, refused):
    assert said in refused(ROWS, "--test-from", option)


def test_a_byte_order_mark_is_no_part_of_a_file(prepare):
    assert prepare("\ufeff" + json.dumps(ROWS)) == 0
    assert prepare("\ufeff" + "\n".join(map(json.dumps, ROWS)), "--force", name="mine.jsonl") == 0


def test_a_file_that_may_not_be_read_is_named(refused, monkeypatch):
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert "mine.parquet cannot be read: Permission denied" in refused(ROWS, name="mine.parquet")


def test_rows_that_are_all_tested_leave_none_to_train_on(prepare, tmp_path, capsys):
    assert prepare(ROWS, "--test-from", f"all={tmp_path / 'mine.json'}") == 2
    assert (
        "no rows are left for train.parquet; name a file with other rows" in capsys.readouterr().err
    )


def test_rows_have_a_data_source(refused):
    assert "--data-source is empty" in refused(ROWS, "--data-source", "")


def test_rows_with_categories_inside_a_struct_are_read_over_row_groups(tmp_path):
    category = pa.dictionary(pa.int32(), pa.string())
    schema = {"problem": pa.string(), "tags": pa.struct([("level", category)])}
    rows = [{"problem": f"{i}+1=?", "tags": {"level": f"level {i}"}} for i in range(10)]
    file = write_with_types(tmp_path / "rows.parquet", rows, pa.schema(schema))
    assert [record.fields for record in Records(file)] == rows


def test_more_held_out_rows_than_there_are_is_an_error(refused):
    assert "has 20 rows, so 20 cannot be held out" in refused(ROWS, "--test", "20")


@pytest.mark.skipif(not MATH.is_dir(), reason="the published sets are not here")
def test_the_published_sets_convert(tmp_path, capsys):
    tests = [
        word
        for name, (file, _) in SETS.items()
        for word in ("--test-from", f"{name}={MATH / file}")
    ]
    command = [
        "math",
        "--from",
        str(MATH / "train_math.json"),
        *tests,
        "--out",
        str(tmp_path / "math"),
    ]
    assert main(command) == 2
    assert "train_math.json, row 886, column 'answer'" in capsys.readouterr().err
    assert main([*command, "--skip-unanswered"]) == 0
    for name, (_, size) in SETS.items():
        prompts = read(tmp_path / "math" / f"{name}.parquet")
        assert len(prompts) == size
        assert {p.data_source for p in prompts} == {name}
        assert all(len(p.ground_truth) for p in prompts)
    train = read(tmp_path / "math" / "train.parquet")
    assert len(train) == 7_474 - 4
    assert {p.extra_info["type"] for p in train} >= {"Algebra", "Geometry", "Number Theory"}


def test_the_home_folder_is_meant_by_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("mine", "theirs"):
        rows = [{**row, "problem": f"{name}: {row['problem']}"} for row in ROWS]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    options = ["--from", "~/mine.json", "--test-from", "theirs=~/theirs.json", "--out", "~/out"]
    assert main(["math", *options]) == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "theirs.parquet",
        "train.parquet",
    ]
