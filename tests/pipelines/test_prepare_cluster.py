"""Clusters of prompts as a column: by values, by words, by a model; the same by seed, the rest as it was."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dps_ray.prompts.dataset import PromptTable
from dps_ray.prompts.files import write_prompts
from pipelines.data.prepare.embedding import TfidfEmbedding
from pipelines.prepare import main
from tests.arrow_types import write_with_types

KINDS = {
    "sum": "Add {} and {}.",
    "area": "How large is a field of {} by {} metres?",
    "word": "Name {}{}.",
}


def row(number: int) -> dict:
    kind = list(KINDS)[number % len(KINDS)]
    text = KINDS[kind].format(number * 37 % 97, number * 53 % 89) + " Think step by step."
    return {
        "data_source": f"source{number % 2}",
        "prompt": [{"role": "user", "content": text}],
        "reward_model": {"style": "rule", "ground_truth": "1"},
        "extra_info": {"index": number, "kind": kind, "level": number % 5},
    }


@pytest.fixture
def files(tmp_path) -> list[Path]:
    made = [tmp_path / "train.parquet", tmp_path / "test.parquet"]
    write_prompts(made[0], map(row, range(90)), row_group_size=16)
    write_prompts(made[1], map(row, range(90, 120)))
    return made


def cluster(files: list[Path], out: Path, *options: str) -> int:
    return main(["cluster", "--data", *map(str, files), "--out", str(out), *options])


def by_kind(out: Path, files: list[Path]) -> dict[str, set[int]]:
    """The clusters that prompts of each kind are in."""
    found = defaultdict(set)
    for file in files:
        for each in pq.read_table(out / file.name).to_pylist():
            found[each["extra_info"]["kind"]].add(each["cluster"])
    return dict(found)


@pytest.mark.parametrize(
    "options", [("--column", "extra_info.kind"), ("--embed", "tfidf", "--k", "3")]
)
def test_prompts_of_a_kind_share_a_cluster_in_all_files(options, files, tmp_path, capsys):
    assert cluster(files, tmp_path / "out", *options) == 0
    found = by_kind(tmp_path / "out", files)
    assert all(len(clusters) == 1 for clusters in found.values())
    assert set.union(*found.values()) == {0, 1, 2}
    said = capsys.readouterr().out
    assert "3 clusters of 40 to 40 prompts" in said
    assert (
        f"selector.cluster_column=cluster data.train={tmp_path / 'out' / 'train.parquet'}" in said
    )


def test_the_rest_of_the_file_and_the_ids_of_prompts_stay_as_they_were(files, tmp_path):
    assert cluster(files, tmp_path / "out", "--column", "data_source") == 0
    for file in files:
        copy = pq.read_table(tmp_path / "out" / file.name)
        assert copy.schema.field("cluster").type == pa.int32()
        assert copy.drop_columns(["cluster"]) == pq.read_table(file)
        assert (
            PromptTable.open(tmp_path / "out" / file.name).ids == PromptTable.open(file).ids
        ).all()


@pytest.mark.parametrize(
    ("text", "list_of"),
    [
        (pa.string_view(), pa.list_view),
        (pa.large_string(), pa.large_list),
        (pa.dictionary(pa.int32(), pa.string()), lambda kind: pa.list_(kind, 1)),
    ],
    ids=["views", "large", "dictionaries and lists of a fixed size"],
)
@pytest.mark.parametrize("by", [("--column", "extra_info.kind"), ("--embed", "tfidf", "--k", "3")])
def test_files_of_any_types_are_copied_with_their_values_and_ids(text, list_of, by, tmp_path):
    rows = [row(number) for number in range(30)]
    extra = pa.struct([("index", pa.int64()), ("kind", text), ("level", pa.int64())])
    schema = pa.schema(
        {
            "data_source": text,
            "prompt": list_of(pa.struct([("role", text), ("content", text)])),
            "reward_model": pa.struct([("style", text), ("ground_truth", text)]),
            "extra_info": extra,
        }
    )
    file = write_with_types(tmp_path / "typed.parquet", rows, schema)
    assert cluster([file], tmp_path / "out", *by) == 0
    copy = tmp_path / "out" / "typed.parquet"
    assert pq.read_table(copy).drop_columns(["cluster"]).to_pylist() == rows
    assert PromptTable.open(copy).ids.tolist() == PromptTable.open(file).ids.tolist()
    assert all(len(clusters) == 1 for clusters in by_kind(tmp_path / "out", [file]).values())


@pytest.mark.parametrize("parts", [False, True], ids=["strings", "parts"])
def test_prompts_that_are_strings_or_have_parts_have_clusters_by_their_words(parts, tmp_path):
    rows = [row(number) for number in range(30)]
    for each in rows:
        text = each["prompt"][0]["content"]
        content = [{"type": "text", "text": text}]
        each["prompt"] = [{"role": "user", "content": content}] if parts else text
    write_prompts(tmp_path / "prompts.parquet", rows)
    file = tmp_path / "prompts.parquet"
    assert cluster([file], tmp_path / "out", "--embed", "tfidf", "--k", "3") == 0
    assert all(len(clusters) == 1 for clusters in by_kind(tmp_path / "out", [file]).values())


def test_several_columns_make_a_cluster_of_each_combination_in_order(files, tmp_path):
    options = ("--column", "data_source", "extra_info.level")
    assert cluster(files, tmp_path / "out", *options) == 0
    rows = pq.read_table(tmp_path / "out" / "train.parquet").to_pylist()
    numbers = {(r["data_source"], r["extra_info"]["level"]): r["cluster"] for r in rows}
    assert [numbers[key] for key in sorted(numbers)] == list(range(10))


def test_a_file_that_has_clusters_gets_new_ones(files, tmp_path):
    assert cluster(files, tmp_path / "once", "--column", "extra_info.level") == 0
    again = [tmp_path / "once" / file.name for file in files]
    assert cluster(again, tmp_path / "twice", "--column", "extra_info.kind") == 0
    assert set.union(*by_kind(tmp_path / "twice", files).values()) == {0, 1, 2}
    assert pq.read_schema(tmp_path / "twice" / "train.parquet").names.count("cluster") == 1


def test_the_same_seed_writes_the_same_bytes(files, tmp_path):
    def written(name: str, seed: str) -> list[bytes]:
        assert cluster(files, tmp_path / name, "--embed", "tfidf", "--k", "9", "--seed", seed) == 0
        return [(tmp_path / name / file.name).read_bytes() for file in files]

    assert written("a", "1") == written("b", "1") != written("c", "2")


def test_a_model_can_say_what_prompts_are_alike(files, tmp_path, tiny_policy):
    # Of an untrained model's vectors only this much can be said: equal texts have equal ones.
    rows = [{**row(n % 4), "extra_info": {"kind": str(n % 4)}} for n in range(40)]
    write_prompts(tmp_path / "same.parquet", rows)
    options = ("--embed", str(tiny_policy), "--k", "4")
    assert cluster([tmp_path / "same.parquet"], tmp_path / "out", *options) == 0
    found = by_kind(tmp_path / "out", [tmp_path / "same.parquet"])
    assert all(len(clusters) == 1 for clusters in found.values())


def test_what_all_texts_have_and_which_digits_they_have_weighs_nothing():
    embedding = TfidfEmbedding()
    texts = ["12 + 34, step by step", "56 + 78, step by step", "9 * 9, step by step"]
    embedding.fit(texts)
    first, second, third = embedding(texts).toarray()
    assert np.allclose(first, second)
    assert first @ third < 0.1
    assert np.allclose(np.linalg.norm([first, third], axis=1), 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--column", "topic"), "train.parquet has no column 'topic': there is no 'topic'"),
        (("--column", "extra_info.topic"), "there is no 'topic' (there is: index, kind, level)"),
        (("--column", "prompt"), "train.parquet, column 'prompt'"),
        (("--embed", "tfidf", "--k", "121"), "--k 121: there are 120 prompts"),
        (("--embed", "tfidf", "--k", "0"), "--k 0: there are 120 prompts"),
        (("--embed", "tfidf", "--k", "3", "--seed", "-1"), "--seed -1: write 0 to"),
        (("--embed", "./nowhere"), "--embed ./nowhere is no model"),
    ],
)
def test_a_wrong_option_is_named_and_nothing_is_left(options, said, files, tmp_path, capsys):
    before = sorted(tmp_path.iterdir())
    assert cluster(files, tmp_path / "out", *options) == 2
    assert said in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_a_missing_value_names_file_row_and_column(files, tmp_path, capsys):
    rows = [row(n) for n in range(9)]
    rows[7]["extra_info"] = {**rows[7]["extra_info"], "kind": None}
    write_prompts(files[0], rows)
    assert cluster(files, tmp_path / "out", "--column", "extra_info.kind") == 2
    assert f"{files[0]}, row 7, column 'extra_info.kind': is null" in capsys.readouterr().err


def test_a_row_that_could_not_be_trained_on_is_named(files, tmp_path, capsys):
    rows = [row(n) for n in range(9)]
    rows[4] = {**rows[4], "prompt": [{"role": "user", "content": None}]}
    write_prompts(files[1], rows)
    assert cluster(files, tmp_path / "out", "--embed", "tfidf") == 2
    assert f"{files[1]}, row 4, column 'prompt.content': is null" in capsys.readouterr().err


def test_two_files_of_one_name_are_refused(files, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    write_prompts(tmp_path / "other" / "train.parquet", map(row, range(9)))
    both = [files[0], tmp_path / "other" / "train.parquet"]
    assert cluster(both, tmp_path / "out", "--column", "data_source") == 2
    assert "two files called train.parquet" in capsys.readouterr().err
