"""The pool of prompts: what it reads, what it refuses, and how little of a file it touches."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dps_ray import processes
from dps_ray.errors import DataError, ResourceError
from dps_ray.prompts.dataset import PromptTable, overlap
from dps_ray.prompts.files import write_prompts


def row(text, truth="0", **more):
    return {
        "data_source": "sums",
        "prompt": [{"role": "user", "content": text}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": truth},
        "extra_info": {"split": "train", "index": 0},
        **more,
    }


def rows(count, start=0):
    return [row(f"{i}+1=", str(i + 1)) for i in range(start, start + count)]


@pytest.fixture
def write(tmp_path):
    """Writes rows to a named file as they are, also wrong ones."""

    def write_as_is(data, name="prompts.parquet", row_group_size=4):
        table = data if isinstance(data, pa.Table) else pa.Table.from_pylist(data)
        pq.write_table(table, tmp_path / name, row_group_size=row_group_size)
        return tmp_path / name

    return write_as_is


@pytest.fixture(scope="module")
def good():
    """More rows than are decoded at a time."""
    return pa.Table.from_pylist([row("1+1=", id=i) for i in range(17_000)])


def test_rows_come_in_the_order_asked_for(write):
    table = PromptTable.open(write(rows(50)))
    wanted = table.ids[[40, 3, 3, 17, 0]]
    assert [p.messages[0]["content"] for p in table.rows(wanted)] == [
        "40+1=",
        "3+1=",
        "3+1=",
        "17+1=",
        "0+1=",
    ]
    assert [p.id for p in table.rows(wanted)] == wanted.tolist()
    assert table.texts(wanted) == ["40+1=", "3+1=", "3+1=", "17+1=", "0+1="]
    assert table.rows([]) == []


def test_a_prompt_holds_what_its_row_says(write):
    images = [{"bytes": b"png", "path": None}]
    messages = [{"role": "system", "content": "Add."}, {"role": "user", "content": "1+1="}]
    data = row("", "2", prompt=messages, images=images, extra_info={"index": 7})
    [prompt] = PromptTable.open(write([data])).rows(PromptTable.open(write([data])).ids)
    assert prompt.messages == messages
    assert prompt.data_source == "sums"
    assert prompt.ground_truth == "2"
    assert prompt.extra_info == {"index": 7}
    assert prompt.images == [b"png"]


def test_optional_columns_may_be_missing_or_null(write):
    data = row("1+1=")
    del data["extra_info"], data["ability"]
    table = PromptTable.open(write([data]))
    [prompt] = table.rows(table.ids)
    assert prompt.extra_info == {}
    assert prompt.images == []


@pytest.mark.parametrize(
    "truth", ["7", 7, 7.5, True, [1, 2], {"target": 7, "numbers": [3, 4]}], ids=repr
)
def test_a_ground_truth_may_be_of_any_type(write, truth):
    table = PromptTable.open(write([row("a", truth), row("b", truth)]))
    assert [p.ground_truth for p in table.rows(table.ids)] == [truth, truth]


def test_the_messages_of_a_prompt_make_one_text(write):
    messages = [{"role": "system", "content": "Add."}, {"role": "user", "content": "1+1="}]
    table = PromptTable.open(write([row("", prompt=messages), row("2+2=")]))
    assert table.texts(table.ids) == ["Add.\n1+1=", "2+2="]


def test_every_type_that_parquet_has_for_text_is_read(write):
    plain = pa.Table.from_pylist(rows(6))
    large = pa.list_(pa.struct([("role", pa.large_string()), ("content", pa.large_string())]))
    table = plain.set_column(1, "prompt", plain["prompt"].cast(large))
    table = table.set_column(0, "data_source", plain["data_source"].dictionary_encode())
    same = PromptTable.open(write(table, "large.parquet"))
    assert same.ids.tolist() == PromptTable.open(write(plain)).ids.tolist()
    assert same.texts(same.ids[4:]) == ["4+1=", "5+1="]
    assert same.rows(same.ids[:1])[0].data_source == "sums"


def test_a_pool_spans_the_files_of_a_folder_in_the_order_of_their_names(write, tmp_path):
    write(rows(5, 5), "b.parquet")
    write(rows(5), "a.parquet")
    (tmp_path / "notes.txt").write_text("not data")
    table = PromptTable.open(tmp_path)
    assert len(table) == 10
    assert table.texts(table.ids[[9, 0, 5]]) == ["9+1=", "0+1=", "5+1="]
    several = PromptTable.open([tmp_path / "a.parquet", tmp_path / "b.parquet"])
    assert several.ids.tolist() == table.ids.tolist()


# Ids


def test_ids_come_from_the_column_named(write):
    data = [row("a", id=7), row("b", id=-3), row("c", id=2**62)]
    table = PromptTable.open(write(data), id_column="id")
    assert table.ids.tolist() == [7, -3, 2**62]
    assert table.ids.dtype == np.int64
    assert table.texts([-3, 7]) == ["b", "a"]


def test_ids_made_from_rows_do_not_depend_on_where_the_rows_stand(write):
    def ids_by_text(path):
        table = PromptTable.open(path)
        return dict(zip(table.texts(table.ids), table.ids.tolist(), strict=True))

    forward = ids_by_text(write(rows(20), row_group_size=3))
    backward = ids_by_text(write(rows(20)[::-1], "backward.parquet", row_group_size=7))
    assert forward == backward


def test_ids_made_from_rows_are_the_same_in_every_release(write):
    # Beliefs in checkpoints are kept by id: a change here would orphan them.
    assert PromptTable.open(write(rows(1))).ids.tolist() == [6124765633058372006]


@pytest.mark.parametrize(
    "other",
    [
        row("1+1=", "3"),
        row("1+1= ", "2"),
        row("1+1=", "2", data_source="other"),
        row("1+1=", "2", prompt=[{"role": "system", "content": "1+1="}]),
    ],
)
def test_rows_that_differ_in_what_a_reward_depends_on_have_different_ids(write, other):
    first, second = PromptTable.open(write([row("1+1=", "2"), other])).ids
    assert first != second


def test_equal_rows_get_an_id_each(write):
    table = PromptTable.open(write([row("a"), row("b"), row("a"), row("a")]))
    assert len(set(table.ids.tolist())) == 4
    assert table.texts(table.ids) == ["a", "b", "a", "a"]
    alone = PromptTable.open(write([row("a"), row("b")], "alone.parquet"))
    assert table.ids[:2].tolist() == alone.ids.tolist()
    assert (table.ids >= 0).all()


def test_an_unknown_id_is_refused_by_name(write):
    table = PromptTable.open(write([row("a", id=1)]), id_column="id")
    for unknown in (0, 2, -(2**63)):
        with pytest.raises(DataError, match=f"id {unknown}"):
            table.rows([1, unknown])


def test_a_repeated_id_names_both_rows(write, tmp_path):
    write([row("a", id=1), row("b", id=5)], "a.parquet")
    write([row("c", id=2), row("d", id=3), row("e", id=5)], "b.parquet")
    with pytest.raises(DataError, match=r"id 5 .*a\.parquet, row 1 and in .*b\.parquet, row 2"):
        PromptTable.open(tmp_path, id_column="id")


# Fingerprints


def test_the_fingerprint_is_that_of_the_data(write):
    first = PromptTable.open(write(rows(20))).fingerprint
    assert PromptTable.open(write(rows(20), "copy.parquet")).fingerprint == first


@pytest.mark.parametrize(
    "change",
    [
        {"data_source": "x"},
        {"prompt": [{"role": "user", "content": "x"}]},
        {"reward_model": {"style": "rule", "ground_truth": "x"}},
        {"extra_info": {"split": "train", "index": 1}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_fingerprint_changes_when_any_column_of_a_row_does(write, change):
    first = PromptTable.open(write(rows(20))).fingerprint
    changed = rows(20)
    changed[13] |= change
    assert PromptTable.open(write(changed)).fingerprint != first


def test_the_fingerprint_changes_with_the_ids(write):
    path = write([row("a", id=1), row("b", id=2)])
    named, made = PromptTable.open(path, id_column="id"), PromptTable.open(path)
    assert named.fingerprint != made.fingerprint


# Bad data: each error names file, row and column


@pytest.mark.parametrize("column", ["data_source", "prompt", "reward_model"])
def test_a_missing_column_is_named_with_those_there_are(write, column):
    data = pa.Table.from_pylist(rows(3)).drop_columns(column)
    with pytest.raises(DataError, match=rf"prompts\.parquet has no column '{column}' .*ability"):
        PromptTable.open(write(data))


def test_a_missing_id_column_is_named(write):
    with pytest.raises(DataError, match="no column 'uid'"):
        PromptTable.open(write(rows(3)), id_column="uid")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("data_source", 3),
        ("prompt", 11),
        ("prompt", ["1+1="]),
        ("prompt", [{"role": "user"}]),
        ("prompt", [{"role": "user", "content": [{"type": "text"}]}]),
        ("reward_model", "2"),
        ("reward_model", {"style": "rule"}),
        ("extra_info", "{}"),
        ("images", "a.png"),
        ("id", "1"),
        ("id", 1.0),
    ],
)
def test_a_column_of_the_wrong_type_is_named_with_the_right_one(write, column, value):
    with pytest.raises(
        DataError, match=rf"prompts\.parquet, column '{column}': the type is .*make"
    ):
        PromptTable.open(write([row("1+1=", **{"id": 1, column: value})]), id_column="id")


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("data_source", {"data_source": None}),
        ("data_source", {"data_source": ""}),
        ("prompt", {"prompt": None}),
        ("prompt", {"prompt": []}),
        ("prompt", {"prompt": [{"role": "user", "content": ""}]}),
        ("prompt", {"prompt": [{"role": "user", "content": " \n\t"}]}),
        ("prompt.content", {"prompt": [{"role": "user", "content": None}]}),
        ("prompt.role", {"prompt": [{"role": None, "content": "1+1="}]}),
        ("prompt.role", {"prompt": [None]}),
        ("reward_model.ground_truth", {"reward_model": None}),
        (
            "reward_model.ground_truth",
            {"reward_model": {"style": "rule", "ground_truth": None}},
        ),
        ("id", {"id": None}),
    ],
)
@pytest.mark.parametrize("before", [0, 17_000], ids=["first row", "a later batch"])
def test_a_bad_row_is_named_with_its_column(write, good, column, change, before):
    bad = pa.Table.from_pylist([row("1+1=", id=0) | change], schema=good.schema)
    path = write(pa.concat_tables([good.slice(0, before), bad]), row_group_size=5000)
    with pytest.raises(DataError, match=rf"prompts\.parquet, row {before}, column '{column}'"):
        PromptTable.open(path, id_column="id")


def test_an_id_beyond_64_bits_is_named_with_its_row(write):
    table = pa.Table.from_pylist(rows(3))
    table = table.append_column("id", pa.array([1, 2, 2**63], pa.uint64()))
    with pytest.raises(DataError, match=r"row 2, column 'id'.*signed 64-bit"):
        PromptTable.open(write(table), id_column="id")


def test_files_that_are_no_data_are_named(write, tmp_path):
    with pytest.raises(DataError, match=r"no file .*nowhere\.parquet"):
        PromptTable.open(tmp_path / "nowhere.parquet")
    with pytest.raises(DataError, match=r"no \.parquet files"):
        PromptTable.open(tmp_path)
    (tmp_path / "text.parquet").write_text("data_source,prompt\n")
    with pytest.raises(DataError, match=r"text\.parquet is not a Parquet file"):
        PromptTable.open(tmp_path / "text.parquet")
    (tmp_path / "text.parquet").write_text("")
    with pytest.raises(DataError, match=r"text\.parquet is empty"):
        PromptTable.open(tmp_path / "text.parquet")
    whole = write(rows(50)).read_bytes()
    (tmp_path / "text.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"text\.parquet is not a Parquet file"):
        PromptTable.open(tmp_path / "text.parquet")


def test_a_pool_without_rows_is_refused(write):
    with pytest.raises(DataError, match="no prompts in"):
        PromptTable.open(write(pa.Table.from_pylist(rows(1)).slice(0, 0)))
    with pytest.raises(DataError, match="no prompts in"):
        PromptTable.open([])


def test_damage_inside_a_file_is_an_error_that_names_it(write):
    path = write(rows(2000), row_group_size=2000)
    damaged = bytearray(path.read_bytes())
    damaged[40:4000] = bytes(3960)
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"prompts\.parquet"):
        PromptTable.open(path)


# Scale


def test_progress_counts_the_rows_checked(write, good):
    seen = []
    PromptTable.open(write(good, row_group_size=9000), progress=lambda *at: seen.append(at))
    assert len(seen) > 1
    assert seen == sorted(set(seen))
    assert seen[-1] == (17_000, 17_000)


@pytest.mark.parametrize("row_group_size", [1, 7, 1000, 40_000])
def test_random_rows_are_found_whatever_the_size_of_row_groups(write, row_group_size):
    count = 40_000 if row_group_size > 7 else 500
    data = [row(str(i), id=i * 3) for i in range(count)]
    table = PromptTable.open(write(data, row_group_size=row_group_size), id_column="id")
    rng = np.random.default_rng(0)
    for wanted in (rng.choice(count, 200), np.arange(count - 3, count), np.array([0])):
        assert table.texts(wanted * 3) == [str(i) for i in wanted]


def test_a_random_read_decodes_only_the_row_groups_it_needs(write):
    path = write([row(str(i), id=i) for i in range(5000)], row_group_size=100)
    table = PromptTable.open(path, id_column="id")
    group = pq.ParquetFile(path).metadata.row_group(20)
    columns = [group.column(i) for i in range(group.num_columns)]
    with path.open("r+b") as file:  # the 21st group's columns become garbage
        file.seek(min(c.dictionary_page_offset or c.data_page_offset for c in columns))
        file.write(bytes(sum(c.total_compressed_size for c in columns)))
    assert table.texts([1999, 2100]) == ["1999", "2100"]
    with pytest.raises(DataError):
        table.texts([1999, 2050])


# Writing, and held-out prompts


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "out.parquet"
    assert write_prompts(path, iter(rows(2500))) == 2500
    table = PromptTable.open(path)
    assert table.texts(table.ids[[2499, 0]]) == ["2499+1=", "0+1="]
    assert pq.ParquetFile(path).metadata.num_row_groups == 3


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    def broken():
        yield from rows(1500)
        raise RuntimeError("the source ended")

    with pytest.raises(RuntimeError):
        write_prompts(tmp_path / "out.parquet", broken())
    with pytest.raises(DataError, match="no prompts to write"):
        write_prompts(tmp_path / "out.parquet", [])
    assert list(tmp_path.iterdir()) == []


def test_rows_of_another_type_are_refused_with_their_numbers(tmp_path):
    data = [*rows(1024), row("a", {"target": 1})]
    with pytest.raises(DataError, match="rows 1024 to 1024"):
        write_prompts(tmp_path / "out.parquet", data)


def test_overlap_counts_test_prompts_that_occur_in_training(write):
    train = PromptTable.open(write(rows(30)))
    assert overlap(train, PromptTable.open(write(rows(10, 30), "apart.parquet"))) == 0
    shared = [*rows(2, 28), row("0+1=", "another truth"), row("0+1="), *rows(5, 30)]
    assert overlap(train, PromptTable.open(write(shared, "shared.parquet"))) == 4


def test_equal_words_about_different_images_are_no_overlap(write):
    pictures = [[{"bytes": data, "path": None}] for data in (b"a", b"b")]
    train, test = (
        PromptTable.open(write([row("Find x.", images=image)], f"{i}.parquet"))
        for i, image in enumerate(pictures)
    )
    assert overlap(train, test) == 0


# --- clusters --------------------------------------------------------------------------------------


def test_prompts_of_one_value_are_of_one_cluster_whatever_the_file_they_are_in(write):
    levels = ["hard", "easy", "hard", "middling", "easy"]
    data = [
        row(f"{i}+1=", extra_info={"level": level, "number": 7 - i}, kind=i % 2)
        for i, level in enumerate(levels)
    ]
    table = PromptTable.open([write(data[:3], "a.parquet"), write(data[3:], "b.parquet")])
    assert table.labels("extra_info.level").labels.tolist() == [1, 0, 1, 2, 0]
    assert table.labels("extra_info.level").names == ["easy", "hard", "middling"]
    assert table.labels("kind").labels.tolist() == [0, 1, 0, 1, 0]
    assert table.labels("kind").labels.dtype == np.int32
    assert len(set(table.labels("extra_info.number").labels.tolist())) == 5


def test_without_a_column_the_data_source_is_the_cluster(write):
    data = [row("1+1="), row("2+2=", data_source="products"), row("3+3=")]
    table = PromptTable.open(write(data))
    assert table.labels().labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("column", "named"),
    [
        ("topic", "no column 'topic'.*there is: data_source, prompt"),
        ("extra_info.level", "no 'level' .there is: split, index"),
        ("prompt", "column 'prompt': the type is list.*make it strings or integers"),
        ("half", "row 1, column 'half': is null"),
    ],
)
def test_a_column_that_makes_no_clusters_is_named(write, column, named):
    table = PromptTable.open(write([row("1+1=", half="a"), row("2+2=", half=None)]))
    with pytest.raises(DataError, match=named):
        table.labels(column)


# --- several processes -----------------------------------------------------------------------------


@pytest.fixture
def in_processes(monkeypatch):
    """Pools of any size are read by two processes, 1,000 rows at a time."""
    monkeypatch.setattr("dps_ray.prompts.reading._ALONE", 0)
    monkeypatch.setattr("dps_ray.prompts.reading._PART", 1000)
    monkeypatch.setattr("dps_ray.prompts.reading.cores", lambda: 2)


@pytest.mark.parametrize("id_column", [None, "id"])
@pytest.mark.parametrize("row_group_size", [1, 300, 1000, 9000])
def test_several_processes_find_the_same_as_one(
    write, in_processes, monkeypatch, id_column, row_group_size
):
    count = 3500 if row_group_size > 1 else 40
    data = [each | {"id": 3 * i} for i, each in enumerate([*rows(count - 5), *rows(5)])]
    files = [
        write(data[: count // 3], "a.parquet", row_group_size=row_group_size),
        write(pa.Table.from_pylist(data).slice(0, 0), "empty.parquet"),
        write(data[count // 3 :], "b.parquet", row_group_size=row_group_size),
    ]
    seen = []
    several = PromptTable.open(files, id_column, lambda *at: seen.append(at))
    test = PromptTable.open(write(rows(50, count - 25), "test.parquet"))
    common = overlap(several, test)
    monkeypatch.undo()
    one = PromptTable.open(files, id_column)
    for name in ("ids", "contents", "sorted_ids", "order"):
        assert getattr(several, name).tolist() == getattr(one, name).tolist()
    assert several.files == one.files
    assert seen == sorted(set(seen))
    assert seen[-1] == (count, count)
    assert common == overlap(one, test) > 0


@pytest.mark.parametrize("bad", [[3400], [1200, 3400, 0]], ids=str)
def test_the_first_bad_row_is_named_whichever_process_finds_it(write, in_processes, bad):
    data = rows(3500)
    for place in bad:
        data[place] = row("")
    path = write(data, row_group_size=100)
    with pytest.raises(DataError, match=rf"row {min(bad)}, column 'prompt': holds no text"):
        PromptTable.open(path)


def test_a_process_that_dies_is_an_error_that_names_the_file(write, in_processes, monkeypatch):
    started = []

    class Killed(processes.Process):
        def __init__(self, do):
            super().__init__(do)
            started.append(self.popen)
            self.popen.kill()

    monkeypatch.setattr(processes, "Process", Killed)
    with pytest.raises(ResourceError, match=r"read .*prompts\.parquet ended with exit code -9"):
        PromptTable.open(write(rows(3500), row_group_size=100))
    assert [process.poll() for process in started] == [-9, -9]


def test_json_lines_are_read_by_several_processes(write, in_processes, tmp_path):
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows(3500)))
    lines = PromptTable.open(tmp_path / "train.jsonl")
    assert lines.ids.tolist() == PromptTable.open(write(rows(3500))).ids.tolist()
    (tmp_path / "train.jsonl").write_text(
        "".join(json.dumps(each) + "\n" for each in [*rows(3499), row("")])
    )
    with pytest.raises(DataError, match=r"train\.jsonl, row 3499, column 'prompt'"):
        PromptTable.open(tmp_path / "train.jsonl")
