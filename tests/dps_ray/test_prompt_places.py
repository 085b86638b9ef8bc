"""Where files of prompts may lie and in which formats: whatever the place, the same rows are the same prompts."""

import contextlib
import itertools
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from moto.server import ThreadedMotoServer
from pyarrow import fs

from dps_ray.errors import DataError
from dps_ray.prompts.cache import Cache
from dps_ray.prompts.dataset import PromptTable

datasets.disable_progress_bars()


def row(text, truth="2", **more):
    return {
        "data_source": "sums",
        "prompt": [{"role": "user", "content": text}],
        "reward_model": {"style": "rule", "ground_truth": truth},
        **more,
    }


def rows(count, first=0):
    return [
        row(f"{i}+1=", str(i + 1), extra_info={"level": f"l{i % 3}", "index": i})
        for i in range(first, first + count)
    ]


DATA = rows(3000)
BUCKETS = itertools.count(100)


@pytest.fixture
def plain(tmp_path):
    """The table of DATA in a Parquet file."""
    (tmp_path / "plain").mkdir()
    return PromptTable.open(write_parquet(tmp_path / "plain" / "train.parquet", DATA))


@pytest.fixture(params=[True, False], ids=["cache", "no cache"])
def cache(request, tmp_path):
    return Cache(tmp_path / "cache", pytest.fail) if request.param else None


def write_parquet(path, data):
    path.parent.mkdir(exist_ok=True, parents=True)
    pq.write_table(pa.Table.from_pylist(data), path, row_group_size=256)
    return path


def write_lines(path, data, end="\n"):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(end.join(json.dumps(each) for each in data) + end)
    return path


def assert_same(table, plain):
    assert table.ids.tolist() == plain.ids.tolist()
    some = table.ids[[2999, 0, 1024, 17, 18]]
    assert table.rows(some) == plain.rows(some)
    assert table.texts(some) == plain.texts(some)
    for column in (None, "extra_info.level"):
        labels, others = table.labels(column), plain.labels(column)
        assert labels.labels.tolist() == others.labels.tolist()
        assert labels.names == others.names
    assert [text.as_py() for batch in table.all_texts() for text in batch] == [
        text.as_py() for batch in plain.all_texts() for text in batch
    ]


# --- patterns and folders --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("a/*.parquet", ["a/1.parquet", "a/2.parquet"]),
        ("a/?.parquet", ["a/1.parquet", "a/2.parquet"]),
        ("*/[13].parquet", ["a/1.parquet", "b/3.parquet"]),
        (
            "**/*.parquet",
            ["a/1.parquet", "a/2.parquet", "b/3.parquet", "b/c/4.parquet", "top.parquet"],
        ),
        ("b/**/4.parquet", ["b/c/4.parquet"]),
        ("b/**", ["b/3.parquet", "b/c/4.parquet"]),
        ("[ac]", ["a/1.parquet", "a/2.parquet"]),
        ("a", ["a/1.parquet", "a/2.parquet"]),
        ("*.parquet", ["top.parquet"]),
    ],
)
@pytest.mark.parametrize("where", ["absolute", "relative", "memory"])
def test_a_pattern_names_files_in_the_order_of_their_names(
    tmp_path, monkeypatch, memory, pattern, found, where
):
    paths = ["a/1.parquet", "a/2.parquet", "b/3.parquet", "b/c/4.parquet", "top.parquet"]
    for number, path in enumerate(paths):
        write_parquet(tmp_path / path, rows(2, number * 2))
    (tmp_path / "a" / ".hidden.parquet").write_text("no data")
    (tmp_path / "a" / ".hidden.parquet").unlink(missing_ok=where == "absolute")
    monkeypatch.chdir(tmp_path)
    prefix = {"absolute": f"{tmp_path}/", "relative": "", "memory": "memory://pool/"}[where]
    if where == "memory":
        memory.put(str(tmp_path), "/pool", recursive=True)
    table = PromptTable.open(prefix + pattern)
    assert [file.path for file in table.files] == [prefix + path for path in found]


def test_a_name_with_brackets_is_no_pattern_if_there_is_such_a_file(tmp_path):
    path = write_parquet(tmp_path / "a[1].parquet", rows(2))
    assert len(PromptTable.open(path)) == 2


def test_places_that_name_no_files_are_errors(tmp_path):
    write_parquet(tmp_path / "a.parquet", rows(2))
    write_lines(tmp_path / "b.jsonl", rows(2))
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("")
    for place, named in [
        (tmp_path / "gone" / "*.parquet", r"no file matches .*gone/\*\.parquet"),
        (tmp_path / "gone.parquet", r"no file .*gone\.parquet"),
        (tmp_path / "empty", r"no \.parquet files and no \.jsonl files \(it has: nothing\)"),
        (tmp_path / "other", r"\(it has: notes\.txt\)"),
        (tmp_path, r"has \.parquet files and \.jsonl files; name those .*/\*\.parquet"),
        ("nowhere://bucket/a.parquet", r"nowhere://bucket/a\.parquet cannot be read: Protocol not"),
        ("memory://gone/a.parquet", r"no file memory://gone/a\.parquet"),
    ]:
        with pytest.raises(DataError, match=named):
            PromptTable.open(place)


def test_each_entry_of_a_list_is_a_source(tmp_path):
    first = write_parquet(tmp_path / "a" / "1.parquet", rows(3))
    write_parquet(tmp_path / "a" / "2.parquet", rows(4, 10))
    second = write_lines(tmp_path / "b.jsonl", rows(2, 20))
    table = PromptTable.open([tmp_path / "a", second])
    assert table.source_sizes.tolist() == [7, 2]
    assert table.source_of(table.ids).tolist() == [0] * 7 + [1] * 2
    assert table.source_of(table.ids[[8, 2]]).tolist() == [1, 0]
    assert table.source_of(table.ids).dtype == "int16"
    assert PromptTable.open(first).source_sizes.tolist() == [3]
    with pytest.raises(DataError, match="no prompt has the id 5"):
        table.source_of([5])


def test_a_file_is_recorded_with_a_digest_that_a_copy_shares(tmp_path):
    first = write_parquet(tmp_path / "a.parquet", rows(20))
    write_parquet(tmp_path / "copy.parquet", rows(20))
    write_parquet(tmp_path / "other.parquet", rows(20)[::-1])
    [record] = PromptTable.open(first).files
    assert (record.path, record.rows) == (str(first), 20)
    digests = [
        PromptTable.open(tmp_path / f"{name}.parquet").files[0].digest for name in ("copy", "other")
    ]
    assert digests[0] == record.digest != digests[1]
    lines = PromptTable.open(write_lines(tmp_path / "a.jsonl", rows(20)))
    assert lines.files[0].digest == record.digest


def test_known_ids_are_found_at_their_rows(tmp_path):
    table = PromptTable.open(write_parquet(tmp_path / "a.parquet", rows(50)))
    wanted = [int(table.ids[40]), 3, int(table.ids[0])]
    found, known = table.find(wanted)
    assert known.tolist() == [True, False, True]
    assert found[known].tolist() == [40, 0]
    assert (table.ids[table.order] == table.sorted_ids).all()
    assert (table.sorted_ids[1:] > table.sorted_ids[:-1]).all()
    assert (table.order.dtype, table.contents.tolist()) == ("int32", table.ids.tolist())
    assert table.find([])[0].tolist() == []


# --- JSON lines ------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"], ids=repr)
def test_json_lines_are_the_same_prompts(tmp_path, plain, cache, monkeypatch, end):
    monkeypatch.setattr("dps_ray.prompts.json_lines._BLOCK", 10_000)  # 50 blocks
    path = write_lines(tmp_path / "train.jsonl", DATA, end)
    for _ in range(2):
        assert_same(PromptTable.open(path, cache=cache), plain)
    shutil.copy(path, tmp_path / "train.json")
    assert_same(PromptTable.open(tmp_path / "train.json", cache=cache), plain)


def test_a_folder_of_json_lines_is_read_in_the_order_of_names(tmp_path, plain):
    write_lines(tmp_path / "lines" / "b.jsonl", DATA[1000:])
    write_lines(tmp_path / "lines" / "a.jsonl", DATA[:1000])
    (tmp_path / "lines" / "about.json").write_text("{")
    assert_same(PromptTable.open(tmp_path / "lines"), plain)


def test_the_last_line_needs_no_end(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(json.dumps(each) for each in rows(3)))
    assert len(PromptTable.open(path)) == 3


@pytest.mark.parametrize("block", [300, 1 << 20])
def test_fields_may_come_late_be_empty_or_hold_text_like_a_date(tmp_path, monkeypatch, block):
    monkeypatch.setattr("dps_ray.prompts.json_lines._BLOCK", block)
    data = [row(f"{i}+1=", "2024-01-02", extra_info={}, tags=[{}]) for i in range(9)]
    data[1]["reward_model"]["hints"] = []
    data[7] |= {"extra_info": {"level": 3, "note": None}, "id": 7}
    data[8]["extra_info"] = {"level": 1.5}
    table = PromptTable.open(write_lines(tmp_path / "train.jsonl", data))
    found = table.rows(table.ids)
    assert [each.ground_truth for each in found] == ["2024-01-02"] * 9
    assert found[0].extra_info == {"level": None, "note": None} or found[0].extra_info == {}
    assert [each.extra_info.get("level") for each in found[7:]] == [3.0, 1.5]


def test_objects_that_are_always_empty_are_no_column(tmp_path):
    data = [row(f"{i}+1=", extra_info={}, more={"inner": {}}, tags=[{}]) for i in range(3)]
    table = PromptTable.open(write_lines(tmp_path / "train.jsonl", data))
    assert [each.extra_info for each in table.rows(table.ids)] == [{}] * 3


BAD_LINES = {
    "no JSON": ("{", "Missing a name|Invalid|Missing"),
    "a list": ("[1]", "from object to array"),
    "another type": (json.dumps(row("1+1=", 7)), "from string to number"),
    "another type inside": (json.dumps(row("1+1=", extra_info={"index": "7"})), "extra_info/index"),
    "a boolean": (json.dumps(row("1+1=", extra_info={"index": True})), "extra_info/index"),
    "a field twice": ('{"a": 1, "a": 2}', "twice"),
}


@pytest.mark.parametrize(("line", "reason"), BAD_LINES.values(), ids=BAD_LINES.keys())
@pytest.mark.parametrize("at", [1, 700])
@pytest.mark.parametrize("block", [5_000, 1 << 20])
def test_a_bad_line_is_named(tmp_path, monkeypatch, line, reason, at, block):
    monkeypatch.setattr("dps_ray.prompts.json_lines._BLOCK", block)
    lines = [json.dumps(each) for each in rows(900)]
    lines[at] = line
    path = tmp_path / "train.jsonl"
    path.write_text("\n" + "\n".join(lines))  # an empty line first
    with pytest.raises(DataError, match=rf"train\.jsonl, line {at + 2}: .*(?:{reason})"):
        PromptTable.open(path)


def test_bytes_that_are_no_text_are_named_with_their_line(tmp_path):
    path = write_lines(tmp_path / "train.jsonl", rows(5))
    path.write_bytes(path.read_bytes().replace(b"3+1=", b"3\xff1="))
    with pytest.raises(DataError, match=r"train\.jsonl, line 4: .*write it in UTF-8"):
        PromptTable.open(path)


@pytest.mark.parametrize("content", ["", "\n \n"], ids=repr)
def test_a_file_without_lines_is_an_error(tmp_path, content):
    (tmp_path / "train.jsonl").write_text(content)
    with pytest.raises(DataError, match=r"train\.jsonl is empty"):
        PromptTable.open(tmp_path / "train.jsonl")


def test_rows_of_json_lines_are_checked_like_any_others(tmp_path, cache):
    path = write_lines(tmp_path / "train.jsonl", [row("1+1="), row("")])
    with pytest.raises(DataError, match=r"train\.jsonl, row 1, column 'prompt': holds no text"):
        PromptTable.open(path, cache=cache)
    path = write_lines(tmp_path / "train.jsonl", [{"question": "1+1=", "answer": "2"}])
    with pytest.raises(
        DataError, match=r"no column 'data_source' .it has: question, answer.; verl's"
    ):
        PromptTable.open(path, cache=cache)


def test_changed_lines_are_copied_anew(tmp_path, cache):
    path = write_lines(tmp_path / "train.jsonl", rows(5))
    first = PromptTable.open(path, cache=cache)
    write_lines(path, rows(5, 1))
    second = PromptTable.open(path, cache=cache)
    assert second.texts(second.ids) == ["1+1=", "2+1=", "3+1=", "4+1=", "5+1="]
    assert first.ids[1:].tolist() == second.ids[:-1].tolist()


# --- folders of datasets ---------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 3])
def test_a_folder_that_datasets_saved_is_the_same_prompts(tmp_path, plain, cache, shards):
    Dataset.from_list(DATA).save_to_disk(tmp_path / "saved", num_shards=shards)
    for _ in range(2):
        table = PromptTable.open(tmp_path / "saved", cache=cache)
        assert_same(table, plain)
    assert [file.rows for file in table.files] == [3000 // shards] * shards


def test_rows_that_datasets_selected_are_those_that_are_read(tmp_path):
    chosen = Dataset.from_list(rows(50)).shuffle(seed=0).select(range(7))
    chosen.save_to_disk(tmp_path / "saved")
    table = PromptTable.open(tmp_path / "saved")
    assert table.texts(table.ids) == [each["prompt"][0]["content"] for each in chosen]


def test_the_only_split_is_taken_and_one_of_several_is_asked_for(tmp_path):
    one, two = Dataset.from_list(rows(3)), Dataset.from_list(rows(2, 5))
    DatasetDict({"train": one}).save_to_disk(tmp_path / "one")
    assert len(PromptTable.open(tmp_path / "one")) == 3
    DatasetDict({"train": one, "test": two}).save_to_disk(tmp_path / "two")
    with pytest.raises(DataError, match=r"several splits; name one: .*/two/train or .*/two/test"):
        PromptTable.open(tmp_path / "two")
    assert len(PromptTable.open(tmp_path / "two" / "test")) == 2


def test_images_that_datasets_stored_are_read(tmp_path):
    data = rows(3)
    for number, each in enumerate(data):
        each["images"] = [{"bytes": b"image %d" % number, "path": None}]
    features = Dataset.from_list(data).features
    features["images"] = datasets.List(datasets.Image(decode=False))
    Dataset.from_list(data, features=features).save_to_disk(tmp_path / "saved")
    table = PromptTable.open(tmp_path / "saved")
    assert table.has_images
    assert [each.images for each in table.rows(table.ids)] == [[b"image %d" % i] for i in range(3)]


def test_an_arrow_file_with_a_footer_is_read_too(tmp_path, plain):
    table = pa.Table.from_pylist(DATA)
    with pa.ipc.new_file(tmp_path / "train.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=700)
    assert_same(PromptTable.open(tmp_path / "train.arrow"), plain)


def test_damaged_arrow_files_are_named(tmp_path):
    Dataset.from_list(rows(3)).save_to_disk(tmp_path / "saved")
    [data] = (tmp_path / "saved").glob("*.arrow")
    whole = data.read_bytes()
    for content in (b"", b"no arrow file at all", whole[: len(whole) // 2]):
        data.write_bytes(content)
        with pytest.raises(DataError, match=r"\.arrow is not an Arrow file"):
            PromptTable.open(tmp_path / "saved")
    data.unlink()
    with pytest.raises(DataError, match=r"no file .*\.arrow"):
        PromptTable.open(tmp_path / "saved")
    (tmp_path / "saved" / "state.json").write_text("{")
    with pytest.raises(DataError, match="saved cannot be read"):
        PromptTable.open(tmp_path / "saved")


# --- other file systems ----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def s3():
    """A server that speaks S3: its options in a URI."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    yield f"?scheme=http&endpoint_override=127.0.0.1:{port}&region=us-east-1&allow_bucket_creation=true"
    server.stop()


@pytest.fixture
def bucket(s3, monkeypatch):
    """Uploads files to a bucket of the test, and returns the name and the file system."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    name = f"bucket-{next(BUCKETS)}"
    system, _ = fs.FileSystem.from_uri(f"s3://{name}{s3}")
    system.create_dir(name)

    def upload(source, path):
        with system.open_output_stream(f"{name}/{path}") as file:
            file.write(source if isinstance(source, bytes) else source.read_bytes())

    return name, upload


def test_prompts_are_read_from_s3(tmp_path, bucket, s3, plain, cache):
    name, upload = bucket
    upload(write_parquet(tmp_path / "1.parquet", DATA[:1000]), "train/1.parquet")
    upload(write_parquet(tmp_path / "2.parquet", DATA[1000:]), "train/2.parquet")
    upload(b"", "train/_SUCCESS")
    for place in ("train", "train/", "train/*.parquet", "**/*.parquet"):
        table = PromptTable.open(f"s3://{name}/{place}{s3}", cache=cache)
        assert_same(table, plain)
        assert [file.path for file in table.files] == [
            f"s3://{name}/train/{i}.parquet" for i in (1, 2)
        ]
    assert_same(PromptTable.open([f"s3://{name}/train/{i}.parquet{s3}" for i in (1, 2)]), plain)
    assert table.place(int(table.ids[1000])) == f"s3://{name}/train/2.parquet, row 0"


def test_a_changed_object_is_read_again(tmp_path, bucket, s3):
    name, upload = bucket
    cache, place = Cache(tmp_path / "cache", pytest.fail), f"s3://{name}/a.parquet{s3}"
    upload(write_parquet(tmp_path / "a.parquet", rows(20)), "a.parquet")
    first = PromptTable.open(place, cache=cache)
    upload(write_parquet(tmp_path / "a.parquet", rows(20, 1)), "a.parquet")
    second = PromptTable.open(place, cache=cache)
    assert first.ids[1:].tolist() == second.ids[:-1].tolist()
    kept = PromptTable.open(place, cache=cache)
    upload(write_parquet(tmp_path / "a.parquet", rows(20, 2)), "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet has changed since it was opened"):
        kept.rows(kept.ids[:1])


def test_lines_and_folders_of_datasets_are_read_from_s3(tmp_path, bucket, s3, plain, cache):
    name, upload = bucket
    upload(write_lines(tmp_path / "train.jsonl", DATA), "lines/train.jsonl")
    Dataset.from_list(DATA).save_to_disk(tmp_path / "saved", num_shards=2)
    for file in (tmp_path / "saved").iterdir():
        upload(file, f"saved/{file.name}")
    assert_same(PromptTable.open(f"s3://{name}/lines{s3}", cache=cache), plain)
    assert_same(PromptTable.open(f"s3://{name}/saved{s3}", cache=cache), plain)


def test_images_lie_beside_their_file_in_s3(tmp_path, bucket, s3):
    name, upload = bucket
    data = [row("<image>1+1=", images=["pictures/a.png"])]
    upload(write_parquet(tmp_path / "a.parquet", data), "train/a.parquet")
    upload(b"image", "train/pictures/a.png")
    table = PromptTable.open(f"s3://{name}/train/a.parquet{s3}")
    assert table.rows(table.ids)[0].images == [b"image"]


def test_errors_of_s3_name_the_object_and_no_secret(tmp_path, bucket, s3):
    name, upload = bucket
    upload(b"no Parquet file", "a.parquet")
    for place, named in [
        ("a.parquet", rf"s3://{name}/a\.parquet is not a Parquet file"),
        ("gone.parquet", rf"there is no file s3://{name}/gone\.parquet"),
        ("*.jsonl", rf"no file matches s3://{name}/\*\.jsonl"),
    ]:
        with pytest.raises(DataError, match=named) as raised:
            PromptTable.open(f"s3://user:hidden@{name}/{place}{s3}")
        assert "hidden" not in str(raised.value)


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def test_prompts_are_read_through_fsspec(tmp_path, memory, plain, cache):
    memory.put(str(write_parquet(tmp_path / "a.parquet", DATA)), "/pool/train/a.parquet")
    memory.put(str(write_lines(tmp_path / "a.jsonl", DATA)), "/pool/lines/a.jsonl")
    for place in ("train", "train/*.parquet", "lines"):
        assert_same(PromptTable.open(f"memory://pool/{place}", cache=cache), plain)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server with the part of the hub's interface that its file system uses, for one data set in a folder."""
    folder = tmp_path / "hub"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = unquote(urlsplit(self.path).path)
            if path == "/api/datasets/org/sums" or path == "/api/datasets/org/sums/revision/v2":
                self.answer(
                    json.dumps({"_id": "1", "id": "org/sums", "sha": "0" * 40, "siblings": []})
                )
            elif path.startswith("/api/datasets/org/sums/tree/"):
                inside = path.removeprefix("/api/datasets/org/sums/tree/").partition("/")[2]
                if not (folder / inside).is_dir():
                    return self.send_error(404)
                self.answer(
                    json.dumps([self.entry(each) for each in sorted((folder / inside).iterdir())])
                )
            elif path.startswith("/datasets/org/sums/resolve/"):
                inside = path.removeprefix("/datasets/org/sums/resolve/").partition("/")[2]
                self.answer((folder / inside).read_bytes())
            else:
                self.send_error(404)

        do_HEAD = do_GET  # noqa: N815

        def do_POST(self):
            sent = unquote(self.rfile.read(int(self.headers["Content-Length"])).decode())
            asked = (
                json.loads(sent)["paths"]
                if sent.startswith("{")
                else [
                    part.partition("=")[2] for part in sent.split("&") if part.startswith("paths=")
                ]
            )
            self.answer(
                json.dumps(
                    [self.entry(folder / each) for each in asked if (folder / each).exists()]
                )
            )

        def entry(self, path):
            kind = "directory" if path.is_dir() else "file"
            inside = str(path.relative_to(folder))
            return {"type": kind, "path": inside, "oid": "1", "size": path.stat().st_size}

        def answer(self, content):
            content = content.encode() if isinstance(content, str) else content
            part, status = content, 200
            if asked := self.headers.get("Range"):
                first, _, last = asked.removeprefix("bytes=").partition("-")
                part, status = content[int(first) : int(last) + 1 if last else None], 206
            self.send_response(status)
            self.send_header("Content-Length", str(len(part)))
            self.send_header("ETag", '"1"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()
            if self.command != "HEAD":
                with contextlib.suppress(BrokenPipeError):
                    self.wfile.write(part)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_prompts_are_read_from_a_data_set_on_the_hub(tmp_path, hub, plain):
    folder, endpoint = hub
    write_parquet(folder / "data" / "train.parquet", DATA)
    (folder / "README.md").write_text("sums")
    program = (
        "import sys\n"
        "from dps_ray.prompts.dataset import PromptTable\n"
        "for place in sys.argv[1:]:\n"
        "    table = PromptTable.open(place)\n"
        "    print(table.files[0].path, table.texts(table.ids[[2999, 0]]), len(table))\n"
    )
    places = [
        f"hf://datasets/org/sums{rest}"
        for rest in ("/data", "@v2/data/train.parquet", "/**/*.parquet")
    ]
    done = subprocess.run(
        [sys.executable, "-c", program, *places],
        env=os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for line, place in zip(done.stdout.splitlines(), places, strict=True):
        assert line.endswith("['2999+1=', '0+1='] 3000"), place
        assert line.startswith("hf://datasets/org/sums")
