"""Prompt files of any Arrow types and forms of messages: the same values are the same prompts with the same ids."""

import datetime
import decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dps_ray.errors import DataError
from dps_ray.prompts.arrow_types import cast
from dps_ray.prompts.dataset import PromptTable, note_on_strings, overlap
from tests.arrow_types import write_with_types


def row(text, truth="2", **more):
    return {
        "data_source": "sums",
        "prompt": [{"role": "user", "content": text}],
        "reward_model": {"style": "rule", "ground_truth": truth},
        **more,
    }


def parts(*texts):
    return [{"type": "text", "text": text} for text in texts]


def said(content):
    """A row whose prompt is one message with this content."""
    return row("", prompt=[{"role": "user", "content": content}])


@pytest.fixture
def write(tmp_path):
    """Writes rows, or a table, to a Parquet file."""

    def write_as_is(data, name="prompts.parquet"):
        table = data if isinstance(data, pa.Table) else pa.Table.from_pylist(data)
        pq.write_table(table, tmp_path / name, row_group_size=4 if len(table) < 100 else 5000)
        return tmp_path / name

    return write_as_is


@pytest.fixture
def write_as(tmp_path):
    """Writes rows to a Parquet file that is read with these types."""
    return lambda rows, schema: write_with_types(tmp_path / "typed.parquet", rows, schema)


def opened(path, **options):
    table = PromptTable.open(path, **options)
    return table, table.rows(table.ids)


# --- types -----------------------------------------------------------------------------------------

KINDS = {
    "plain": (pa.string(), pa.binary(), pa.list_),
    "large": (pa.large_string(), pa.large_binary(), pa.large_list),
    "views": (pa.string_view(), pa.binary_view(), pa.list_view),
    "large list views": (pa.string_view(), pa.binary_view(), pa.large_list_view),
    "lists of a fixed size": (pa.string(), pa.binary(), lambda kind: pa.list_(kind, 1)),
    "dictionaries": (pa.dictionary(pa.int32(), pa.string()), pa.binary(), pa.list_),
}


def schema_of(text, data, list_of):
    message = pa.struct([("role", text), ("content", text)])
    extra = [("level", text), ("index", pa.int64()), ("tags", list_of(text))]
    return pa.schema(
        {
            "data_source": text,
            "prompt": list_of(message),
            "reward_model": pa.struct([("style", text), ("ground_truth", text)]),
            "extra_info": pa.struct(extra),
            "images": list_of(pa.struct([("bytes", data), ("path", text)])),
            "kind": text,
            "id": pa.int64(),
        }
    )


def rows_of_everything(count=11):
    return [
        row(
            f"<image> {i}+1=",
            str(i + 1),
            data_source=f"sums-{i % 2}",
            extra_info={"level": "abc"[i % 3], "index": i, "tags": [f"tag{i}"]},
            images=[{"bytes": b"image %d" % i, "path": f"{i}.png"}],
            kind="even" if i % 2 else "odd",
            id=i * 7,
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_the_types_of_a_file_make_no_difference(write, write_as, kind):
    rows = rows_of_everything()
    plain, expected = opened(write(rows))
    table, found = opened(write_as(rows, schema_of(*KINDS[kind])))
    assert table.ids.tolist() == plain.ids.tolist()
    assert found == expected
    some = table.ids[[9, 2]]
    assert table.rows(some) == [expected[9], expected[2]]
    assert table.texts(some) == ["<image> 9+1=", "<image> 2+1="]
    for column in (None, "extra_info.level", "kind"):
        labels, expected_labels = table.labels(column), plain.labels(column)
        assert labels.labels.tolist() == expected_labels.labels.tolist()
        assert labels.names == expected_labels.names
    by_column = PromptTable.open(write_as(rows, schema_of(*KINDS[kind])), id_column="id")
    assert by_column.ids.tolist() == [row["id"] for row in rows]


def test_categories_and_the_index_types_that_polars_gives_them_are_read(write):
    rows = rows_of_everything()
    table = pa.Table.from_pylist(rows)
    plain, expected = opened(write(table))
    for index in (pa.int8(), pa.uint8(), pa.uint32()):
        kind = pa.dictionary(index, pa.string())
        for name in ("data_source", "kind"):
            place = table.column_names.index(name)
            table = table.set_column(place, name, pa.Table.from_pylist(rows)[name].cast(kind))
        same, found = opened(write(table, "categories.parquet"))
        assert same.ids.tolist() == plain.ids.tolist()
        assert found == expected
        assert same.labels("kind").labels.tolist() == [1, 0] * 5 + [1]


@pytest.mark.parametrize("make", [pa.ListViewArray, pa.LargeListViewArray])
def test_list_views_become_lists_wherever_their_values_lie(make):
    # Out of order, with gaps, shared, empty: Arrow's own cast reads past the end of these.
    mask = pa.array([False, True, False, False, False])
    views = make.from_arrays([3, 0, 0, 1, 0], [2, 1, 2, 3, 0], pa.array(list("abcde")), mask=mask)
    lists = [["d", "e"], None, ["a", "b"], ["b", "c", "d"], []]
    inside = pa.StructArray.from_arrays([views], ["tags"])
    for start in range(5):
        cast_views = cast(views[start:], pa.list_(pa.string()))
        cast_views.validate(full=True)
        assert cast_views.to_pylist() == lists[start:]
        cast_inside = cast(inside[start:], pa.struct([("tags", pa.list_(pa.string()))]))
        cast_inside.validate(full=True)
        assert cast_inside.to_pylist() == [{"tags": each} for each in lists[start:]]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()], ids=str)
def test_text_that_is_stored_as_bytes_is_read(write, write_as, kind):
    rows = [row("ünï?", kind="a"), row("1+1=", kind="b")]
    _, expected = opened(write(rows))
    message = pa.struct([("role", kind), ("content", kind)])
    truth = pa.struct([("style", pa.string()), ("ground_truth", pa.string())])
    fields = {"data_source": kind, "prompt": pa.list_(message), "reward_model": truth, "kind": kind}
    table, found = opened(write_as(_in_bytes(rows), pa.schema(fields)))
    assert found == expected
    assert table.labels("kind").labels.tolist() == [0, 1]


def _in_bytes(rows):
    return [
        row
        | {
            "data_source": row["data_source"].encode(),
            "kind": row["kind"].encode(),
            "prompt": [{k: v.encode() for k, v in each.items()} for each in row["prompt"]],
        }
        for row in rows
    ]


@pytest.mark.parametrize("bad", [0, 5, 17_000])
def test_bytes_that_are_no_text_are_named_with_row_and_column(write, bad):
    rows = [said("1+1=")] * bad + [said(b"\xff")]
    for each in rows[:bad]:
        each["prompt"] = [{"role": "user", "content": b"1+1="}]
    with pytest.raises(DataError, match=rf"row {bad}, column 'prompt': holds bytes .* not UTF-8"):
        PromptTable.open(write(rows))


def test_bytes_that_are_no_text_make_no_cluster(write):
    table = PromptTable.open(write([row("a", kind=b"x"), row("b", kind=b"\xff")]))
    with pytest.raises(DataError, match="row 1, column 'kind': holds bytes"):
        table.labels("kind")


# --- ids -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("truth", "expected"),
    [
        ("7", 4812665185097276210),
        (7, 4812665185097276210),
        (7.5, 3850092542048831303),
        (True, 8536794799156541287),
        ([1, 2], 2077722006979440987),
        (["a", "ü"], 6071340964617134828),
        ({"target": 7, "numbers": [3, 4]}, 930635022114382289),
        ([{"a": 1}, {"a": None}], 2555466863222892245),
        (decimal.Decimal("1.50"), 508329886499168376),
        (datetime.date(2024, 1, 2), 5420088606972941025),
        (b"ab", 8968859353146278432),
        (b"\xff", 8129073310671342816),
    ],
    ids=repr,
)
def test_ids_by_ground_truth_are_those_of_earlier_releases(write, truth, expected):
    assert PromptTable.open(write([row("1+1=", truth)])).ids.tolist() == [expected]


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (
            [{"role": "system", "content": "Add."}, {"role": "user", "content": "1+1="}],
            7477327840930557076,
        ),
        ([{"content": "1+1=", "name": None, "role": "user"}], 7556469224839176852),
        ([{"role": "user", "content": "ünï\n☃"}], 931222026424659757),
    ],
    ids=["two messages", "other keys", "Unicode"],
)
def test_ids_by_messages_are_those_of_earlier_releases(write, messages, expected):
    assert PromptTable.open(write([row("", prompt=messages)])).ids.tolist() == [expected]


TRUTHS = {
    "string_view": (pa.string_view(), "7", 4812665185097276210),
    "dictionary": (pa.dictionary(pa.int8(), pa.string()), "7", 4812665185097276210),
    "large_list": (pa.large_list(pa.int64()), [1, 2], 2077722006979440987),
    "fixed_size_list": (pa.list_(pa.int64(), 2), [1, 2], 2077722006979440987),
    "list_view": (pa.list_view(pa.int64()), [1, 2], 2077722006979440987),
    "binary_view": (pa.binary_view(), b"ab", 8968859353146278432),
    "json": (pa.json_(), '{"a": 1}', 1250484175983209365),
    "uuid": (pa.uuid(), b"a" * 16, 5813065068444128369),
    "map": (pa.map_(pa.string(), pa.int64()), [("a", 1)], 5558910706600961123),
}


@pytest.mark.parametrize("kind", TRUTHS)
def test_ids_by_types_of_ground_truths_are_those_of_earlier_releases(write, kind):
    arrow, truth, expected = TRUTHS[kind]
    table = pa.Table.from_pylist([row("1+1=")])
    truths = pa.StructArray.from_arrays([pa.array([truth], arrow)], ["ground_truth"])
    typed = table.set_column(table.column_names.index("reward_model"), "reward_model", truths)
    assert PromptTable.open(write(typed)).ids.tolist() == [expected]


# --- columns without values ------------------------------------------------------------------------


def test_optional_columns_of_type_null_count_as_absent(write):
    rows = [row(text) for text in ("1+1=", "2+2=")]
    without, expected = opened(write(rows))
    nulls = [each | {"extra_info": None, "images": None, "ability": None} for each in rows]
    table, found = opened(write(nulls, "nulls.parquet"))
    assert found == expected
    assert [(each.extra_info, each.images) for each in found] == [({}, []), ({}, [])]
    assert table.ids.tolist() == without.ids.tolist()
    assert not table.has_images
    assert overlap(without, table) == 2


def test_a_cluster_column_of_type_null_is_refused_by_its_name(write):
    table = PromptTable.open(write([row("1+1=", extra_info=None, kind=None)]))
    with pytest.raises(DataError, match=r"no column 'extra_info\.level'"):
        table.labels("extra_info.level")
    with pytest.raises(DataError, match="column 'kind': the type is null; make it strings"):
        table.labels("kind")


@pytest.mark.parametrize("column", ["data_source", "prompt", "reward_model"])
def test_a_column_that_is_needed_may_not_be_of_type_null(write, column):
    with pytest.raises(DataError, match=f"column '{column}': the type is null; make it"):
        PromptTable.open(write([row("1+1=") | {column: None}]))


# --- prompts that are strings ----------------------------------------------------------------------

STRINGS = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.binary(),
    pa.binary_view(),
    pa.dictionary(pa.int32(), pa.string()),
]


@pytest.mark.parametrize("kind", STRINGS, ids=str)
def test_a_prompt_that_is_a_string_is_one_message_of_a_user(write, kind):
    texts = [f"{i}+1=" for i in range(11)]
    as_messages, expected = opened(write([row(text) for text in texts]))
    table = pa.Table.from_pylist([row(text) for text in texts])
    prompts = pa.array([text.encode() for text in texts] if "binary" in str(kind) else texts, kind)
    path = write(table.set_column(1, "prompt", prompts), "strings.parquet")
    strings, found = opened(path)
    assert found == expected
    assert found[0].messages == [{"role": "user", "content": "0+1="}]
    assert strings.ids.tolist() == as_messages.ids.tolist()
    assert strings.texts(strings.ids[[9, 2]]) == ["9+1=", "2+1="]
    assert overlap(as_messages, strings) == 11


def test_files_whose_prompts_are_strings_are_named(write):
    messages = PromptTable.open(write([row("1+1=")]))
    assert note_on_strings([messages]) is None
    strings = PromptTable.open(write([row("", prompt="2+2=")], "strings.parquet"))
    note = note_on_strings([messages, strings])
    assert "strings.parquet are strings; each becomes one message of role user" in note
    assert "strings.parquet and 1 more" in note_on_strings([strings, messages, strings])


@pytest.mark.parametrize(
    ("prompt", "what"),
    [
        (None, "is empty; give at least one message"),
        ("", "holds no text"),
        (" \n", "holds no text"),
        ('[{"role": "user", "content": "1+1="}]', "is the text of a list of messages"),
        ("[{'content': '1+1=', 'role': 'user'}]", "is the text of a list of messages"),
    ],
)
def test_a_string_that_is_no_prompt_is_refused_with_its_row(write, prompt, what):
    rows = [row("", prompt=text) for text in ["1+1=", "2+2=", prompt]]
    with pytest.raises(DataError, match=rf"row 2, column 'prompt': {what}"):
        PromptTable.open(write(rows))


def test_strings_with_brackets_are_prompts(write):
    texts = ["[1, 2] + [3]", '{"role": "clerk"}: who is it?']
    table = PromptTable.open(write([row("", prompt=text) for text in texts]))
    assert table.texts(table.ids) == texts


# --- contents in parts -----------------------------------------------------------------------------


def test_the_texts_of_parts_are_joined(write):
    contents = [["1+1="], ["1", "+", "1="], ["2+2=\n", "?"], ["", "a"], ["b", ""]] * 3
    plain, expected = opened(write([said("".join(texts)) for texts in contents]))
    table, found = opened(write([said(parts(*texts)) for texts in contents], "parts.parquet"))
    assert found == expected
    assert table.ids.tolist() == plain.ids.tolist()
    assert table.texts(table.ids[[11, 2]]) == ["1+1=", "2+2=\n?"]
    assert table.texts(table.ids) == ["".join(texts) for texts in contents]
    assert overlap(plain, table) == len(contents)


def test_each_message_has_the_parts_of_its_own(write):
    messages = [
        {"role": "system", "content": parts("Add", ".")},
        {"role": "user", "content": []},
        {"role": "user", "content": parts("1+1=")},
    ]
    table = PromptTable.open(write([row("", prompt=messages), row("", prompt=messages[2:])]))
    first, second = table.rows(table.ids)
    assert [each["content"] for each in first.messages] == ["Add.", "", "1+1="]
    assert second.messages == [{"role": "user", "content": "1+1="}]


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_any_types_are_joined(write, write_as, kind):
    text, _, list_of = KINDS[kind]
    message = pa.struct(
        [("role", text), ("content", list_of(pa.struct([("type", text), ("text", text)])))]
    )
    schema = pa.schema(
        {
            "data_source": text,
            "prompt": list_of(message),
            "reward_model": pa.struct([("style", text), ("ground_truth", text)]),
        }
    )
    texts = [f"{i}+1=" for i in range(6)]
    plain, expected = opened(write([said(text) for text in texts]))
    table, found = opened(write_as([said(parts(text)) for text in texts], schema))
    assert found == expected
    assert table.ids.tolist() == plain.ids.tolist()


@pytest.mark.parametrize(
    ("part", "what"),
    [
        ({"type": "image_url", "text": None, "image_url": {"url": "a.png"}}, "type 'image_url'"),
        ({"type": "image", "text": "a.png", "image_url": None}, "type 'image'"),
        ({"type": None, "text": "1+1=", "image_url": None}, "type None"),
        ({"type": "text", "text": None, "image_url": None}, "type 'text' without a text"),
        (None, "type None"),
    ],
)
@pytest.mark.parametrize("bad", [1, 17_000], ids=["first batch", "a later batch"])
def test_a_part_that_is_no_text_is_refused_with_its_row(write, part, what, bad):
    good = {"type": "text", "text": "1+1=", "image_url": {"url": None}}
    message = {"role": "user", "content": [good, good]}
    wrong = {"role": "user", "content": [good, part]}
    rows = [row("", prompt=[message])] * bad + [row("", prompt=[message, wrong])]
    said = rf"row {bad}, column 'prompt.content': holds a part of {what}; write texts only"
    with pytest.raises(DataError, match=said):
        PromptTable.open(write(rows))


@pytest.mark.parametrize(
    ("prompt", "column", "what"),
    [
        (None, "prompt", "is empty"),
        ([], "prompt", "is empty"),
        ([{"role": "user", "content": None}], "prompt.content", "is null"),
        ([{"role": None, "content": parts("1+1=")}], "prompt.role", "is null"),
        ([None], "prompt.role", "is null"),
        ([{"role": "user", "content": []}], "prompt", "holds no text"),
        ([{"role": "user", "content": parts("", " ")}], "prompt", "holds no text"),
    ],
)
def test_messages_with_parts_need_a_role_and_a_text(write, prompt, column, what):
    rows = [said(parts("1+1=")), row("", prompt=prompt)]
    with pytest.raises(DataError, match=rf"row 1, column '{column}': {what}"):
        PromptTable.open(write(rows))


@pytest.mark.parametrize(
    "content",
    [["1+1="], [{"text": "1+1="}], [{"type": "text", "text": 2}], {"type": "text", "text": "2"}],
)
def test_contents_of_other_types_are_refused_with_the_types_that_are_read(write, content):
    with pytest.raises(DataError, match=r"the type is .*; make it .*\{type: string, text: string"):
        PromptTable.open(write([said(content)]))
