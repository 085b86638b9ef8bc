"""What is kept of data files between starts: found again, made again after a change, and never wrong."""

import json
import os
import shutil
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dps_ray.errors import DataError
from dps_ray.prompts.cache import Cache, Entry, key_of
from dps_ray.prompts.dataset import PromptTable, overlap
from dps_ray.prompts.index import index_of


def row(text, truth="2", **more):
    return {
        "data_source": "sums",
        "prompt": [{"role": "user", "content": text}],
        "reward_model": {"style": "rule", "ground_truth": truth},
        **more,
    }


def rows(count, first=0):
    return [row(f"{i}+1=", str(i + 1), level=i % 3) for i in range(first, first + count)]


@pytest.fixture
def write(tmp_path):
    def write_rows(data, name="prompts.parquet", **options):
        pq.write_table(pa.Table.from_pylist(data), tmp_path / name, row_group_size=16, **options)
        return tmp_path / name

    return write_rows


@pytest.fixture
def told():
    return []


@pytest.fixture
def cache(tmp_path, told):
    return Cache(tmp_path / "cache", told.append)


@pytest.fixture
def read(monkeypatch):
    """How many times files are read from beginning to end."""
    times = []

    def counted(*arguments):
        times.append(1)
        return index_of(*arguments)

    monkeypatch.setattr("dps_ray.prompts.dataset.index_of", counted)
    return times


def folders(cache):
    return sorted(path for path in cache.folder.iterdir() if path.is_dir())


# --- entries ---------------------------------------------------------------------------------------

ARRAYS = {
    "ids": np.arange(5000, dtype=np.int64),
    "none": np.empty(0, np.int32),
    "shares": np.array([[0.5, 0.25]]),
}


def test_what_is_kept_is_found_again_by_another_process(cache, told):
    key = key_of("numbers", [("a.parquet", 3)])
    assert cache.get(key) is None
    cache.put(key, Entry(ARRAYS, {"rows": [3, 4]}))
    found = Cache(cache.folder, told.append).get(key)
    assert found.meta == {"rows": [3, 4]}
    assert found.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found.arrays[name], array)
        assert found.arrays[name].dtype == array.dtype
        assert not found.arrays[name].flags.writeable
    assert not told


def test_another_purpose_file_order_or_parameter_has_another_key():
    files = [("a.parquet", 3, 17), ("b.parquet", 3, 17)]
    keys = {
        key_of("index", files),
        key_of("labels", files),
        key_of("index", files[::-1]),
        key_of("index", files[:1]),
        key_of("index", files, id_column="id"),
        key_of("index", files, id_column=None),
        key_of("index", [("a.parquet", 3, 18), files[1]]),
    }
    assert len(keys) == 7


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


DAMAGE = {
    "a changed value": lambda entry: flip(entry / "ids.npy", 3000),
    "a changed header": lambda entry: flip(entry / "ids.npy", 30),
    "a cut array": lambda entry: os.truncate(entry / "ids.npy", 20_000),
    "an empty array": lambda entry: os.truncate(entry / "ids.npy", 0),
    "a missing array": lambda entry: (entry / "ids.npy").unlink(),
    "swapped arrays": lambda entry: shutil.copy(entry / "shares.npy", entry / "ids.npy"),
    "a folder for an array": lambda entry: (
        (entry / "ids.npy").unlink(),
        (entry / "ids.npy").mkdir(),
    ),
    "changed metadata": lambda entry: (entry / "entry.json").write_text(
        (entry / "entry.json").read_text().replace("17", "18")
    ),
    "cut metadata": lambda entry: os.truncate(entry / "entry.json", 40),
    "metadata of another form": lambda entry: (entry / "entry.json").write_text("[3]"),
    "no metadata": lambda entry: (entry / "entry.json").unlink(),
    "metadata that is no text": lambda entry: (entry / "entry.json").write_bytes(b"\xff\x00"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_entry_is_made_again(cache, told, damage):
    key = key_of("numbers", [])
    cache.put(key, Entry(ARRAYS, {"rows": 17}))
    damage(cache.folder / key)
    assert cache.get(key) is None
    again = cache.kept(key, lambda: Entry(ARRAYS, {"rows": 17}))
    for found in (again, cache.get(key)):
        np.testing.assert_array_equal(found.arrays["ids"], ARRAYS["ids"])
        assert found.meta == {"rows": 17}
    assert not told
    assert len(folders(cache)) == 1


def test_an_entry_under_the_key_of_another_is_made_again(cache):
    first, second = (key_of("numbers", [(name,)]) for name in "ab")
    for key in (first, second):
        cache.put(key, Entry({}, {"key": key}))
    shutil.rmtree(cache.folder / second)
    shutil.copytree(cache.folder / first, cache.folder / second)
    assert cache.get(second) is None
    assert cache.get(first).meta == {"key": first}


def test_a_writer_that_was_killed_leaves_no_entry(cache):
    key, other = key_of("numbers", []), key_of("others", [])
    cache.put(key, Entry(ARRAYS, {}))
    part = cache.folder / f"{key}.0123abcd.part"
    shutil.copytree(cache.folder / key, part)
    (part / "entry.json").unlink()
    shutil.rmtree(cache.folder / key)
    assert cache.get(key) is None
    cache.put(other, Entry({}, {}))
    assert part.exists()  # its writer may still be alive
    os.utime(part, (time.time() - 90_000,) * 2)
    cache.put(key, Entry(ARRAYS, {}))
    assert folders(cache) == sorted([cache.folder / key, cache.folder / other])


def test_arrays_in_use_outlive_the_removal_of_their_entry(cache):
    key = key_of("numbers", [])
    found = cache.put(key, Entry(ARRAYS, {}))
    cache.put(key, Entry({"ids": ARRAYS["ids"] + 1}, {}))
    shutil.rmtree(cache.folder)
    np.testing.assert_array_equal(found.arrays["ids"], ARRAYS["ids"])


def test_the_entries_used_longest_ago_are_removed_beyond_a_number_or_a_size(tmp_path, told):
    keys = [key_of("numbers", [(i,)]) for i in range(6)]

    def kept_by(folder, **limits):
        for age, key in enumerate(keys[:5]):
            Cache(folder, told.append).put(key, Entry(ARRAYS, {}))
            os.utime(folder / key / "entry.json", (1000 + age,) * 2)
        cache = Cache(folder, told.append, **limits)
        cache.get(keys[0])  # the oldest, used just now
        cache.put(keys[5], Entry(ARRAYS, {}))
        return {key for key in keys if cache.get(key) is not None}

    expected = {keys[0], keys[4], keys[5]}
    assert kept_by(tmp_path / "by number", entries=3) == expected
    size = sum(array.nbytes for array in ARRAYS.values())
    assert kept_by(tmp_path / "by size", size=int(3.5 * size)) == expected
    assert not told


def test_an_entry_larger_than_the_limit_is_kept_alone(tmp_path, told):
    cache = Cache(tmp_path / "cache", told.append, size=10)
    for name in "ab":
        cache.put(key_of("numbers", [(name,)]), Entry(ARRAYS, {}))
    assert [path.name for path in folders(cache)] == [key_of("numbers", [("b",)])]


def test_a_folder_that_cannot_be_written_costs_one_message(tmp_path, told):
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file" / "cache", told.append)
    for name in "ab":
        entry = cache.kept(key_of("numbers", [(name,)]), lambda: Entry(ARRAYS, {"a": 1}))
        assert entry.arrays["ids"] is ARRAYS["ids"]
    assert len(told) == 1
    assert "cannot be kept in" in told[0]


def test_a_file_is_kept_and_written_again_when_it_is_damaged(cache):
    key, written = key_of("copy", []), []

    def write(path):
        written.append(path)
        path.write_bytes(b"copy of a file")

    path = cache.kept_file(key, "a.bin", write)
    assert cache.kept_file(key, "a.bin", write) == path
    assert len(written) == 1
    path.write_bytes(b"copy of a fine")
    assert cache.kept_file(key, "a.bin", write).read_bytes() == b"copy of a file"
    assert len(written) == 2


def test_a_file_whose_writing_fails_is_not_kept(cache, told):
    def fail(path):
        path.write_bytes(b"half of it")
        raise DataError("line 7 is bad")

    with pytest.raises(DataError, match="line 7"):
        cache.kept_file(key_of("copy", []), "a.bin", fail)
    assert list(cache.folder.iterdir()) == []

    def fill(path):
        raise OSError(28, "No space left on device")

    assert cache.kept_file(key_of("copy", []), "a.bin", fill) is None
    assert list(cache.folder.iterdir()) == []
    assert ["No space left" in message for message in told] == [True]


def test_processes_that_keep_the_same_at_once_leave_one_whole_entry(cache, told):
    key, other = key_of("copy", []), Cache(cache.folder, told.append)

    def write_while_another_does(path):
        other.kept_file(key, "a.bin", lambda at: at.write_bytes(b"same"))
        path.write_bytes(b"same")

    path = cache.kept_file(key, "a.bin", write_while_another_does)
    assert path.read_bytes() == b"same"
    assert folders(cache) == [cache.folder / key]
    assert not told


# --- tables ----------------------------------------------------------------------------------------


def same(table, other):
    for name in ("ids", "contents", "sorted_ids", "order", "source_sizes"):
        np.testing.assert_array_equal(getattr(table, name), getattr(other, name))
        assert getattr(table, name).dtype == getattr(other, name).dtype
        assert not getattr(table, name).flags.writeable
    assert table.rows(table.ids) == other.rows(other.ids)
    assert table.files == other.files
    assert table.fingerprint == other.fingerprint
    assert table.has_images == other.has_images
    assert table.files_of_strings == other.files_of_strings
    for column in (None, "level"):
        labels, others = table.labels(column), other.labels(column)
        np.testing.assert_array_equal(labels.labels, others.labels)
        assert labels.names == others.names
    return True


@pytest.mark.parametrize("id_column", [None, "id"])
def test_a_table_from_the_cache_is_the_same_and_reads_no_rows(write, cache, read, id_column):
    data = [*rows(40), *rows(5)] if id_column is None else rows(45)
    data = [each | {"id": 7 * i} for i, each in enumerate(data)]
    files = [write(data[:30], "a.parquet"), write(data[30:], "b.parquet")]
    plain = PromptTable.open(files, id_column)
    read.clear()
    first = PromptTable.open(files, id_column, cache=cache)
    seen = []
    second = PromptTable.open(files, id_column, lambda *at: seen.append(at), cache)
    assert len(read) == 1
    assert not seen
    assert same(first, plain)
    assert same(second, plain)
    assert same(second, PromptTable.open(files, id_column, cache=cache))  # labels from the cache


def test_ids_from_a_column_and_ids_made_from_rows_are_kept_apart(write, cache):
    path = write([each | {"id": i} for i, each in enumerate(rows(5))])
    by_column, made = (PromptTable.open(path, column, cache=cache) for column in ("id", None))
    assert by_column.ids.tolist() == [0, 1, 2, 3, 4]
    assert by_column.contents.tolist() == made.ids.tolist()
    assert PromptTable.open(path, "id", cache=cache).contents.tolist() == made.ids.tolist()


def test_a_changed_file_is_read_again_even_if_size_and_time_are_the_same(write, cache, read):
    path = write(rows(40), compression="none", use_dictionary=False)
    before = PromptTable.open(path, cache=cache)
    about = path.stat()
    changed = rows(40)
    changed[9] = row("9+2=", "11", level=0)  # the last text in sorted order, which the footer names
    write(changed, compression="none", use_dictionary=False)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert path.stat().st_size == about.st_size
    after = PromptTable.open(path, cache=cache)
    assert len(read) == 2
    assert after.texts(after.ids[[9]]) == ["9+2="]
    assert (after.ids != before.ids).sum() == 1


def test_files_that_swap_their_names_are_read_again(write, cache, read, tmp_path):
    first, second = write(rows(20), "a.parquet"), write(rows(20, 100), "b.parquet")
    before = PromptTable.open([first, second], cache=cache)
    first.rename(tmp_path / "aside")
    second.rename(first)
    (tmp_path / "aside").rename(second)
    after = PromptTable.open([first, second], cache=cache)
    assert len(read) == 2
    assert after.texts(after.ids[:1]) == ["100+1="]
    assert sorted(after.ids) == sorted(before.ids)


def test_a_file_cut_short_is_an_error_and_not_what_it_was(write, cache):
    path = write(rows(40))
    PromptTable.open(path, cache=cache)
    os.truncate(path, path.stat().st_size - 20)
    with pytest.raises(DataError, match="not a Parquet file"):
        PromptTable.open(path, cache=cache)


@pytest.mark.parametrize("name", ["ids", "sorted_ids", "order", "contents"])
def test_a_table_with_a_damaged_entry_is_read_again(write, cache, read, name):
    path = write([*rows(40), *rows(5)])  # repeats, so that contents are not ids
    plain = PromptTable.open(path)
    PromptTable.open(path, cache=cache)
    [entry] = folders(cache)
    flip(entry / f"{name}.npy", -5)
    assert same(PromptTable.open(path, cache=cache), plain)
    assert len(read) == 3


def test_bad_rows_are_an_error_every_time(write, cache):
    path = write([row("1+1="), row("")])
    for _ in range(2):
        with pytest.raises(DataError, match="row 1, column 'prompt': holds no text"):
            PromptTable.open(path, cache=cache)


def test_a_file_replaced_while_the_table_is_open_is_an_error(write, cache):
    path = write(rows(40))
    PromptTable.open(path, cache=cache)
    table = PromptTable.open(path, cache=cache)
    write(rows(40)[::-1])
    with pytest.raises(DataError, match="has changed since it was opened"):
        table.rows(table.ids[:1])


def test_the_overlap_of_test_and_train_is_kept(write, cache, monkeypatch):
    paths = write(rows(30), "train.parquet"), write(rows(10, 25), "test.parquet")
    train, test = (PromptTable.open(path, cache=cache) for path in paths)
    assert overlap(train, test, cache) == 5
    train, test = (PromptTable.open(path, cache=cache) for path in paths)
    with monkeypatch.context() as patch:
        patch.setattr(PromptTable, "all_texts", None)
        assert overlap(train, test, cache) == 5
    assert overlap(test, train, cache) == overlap(test, train) == 5
    other = PromptTable.open(write(rows(10, 29), "test.parquet"), cache=cache)
    assert overlap(train, other, cache) == 1


def test_an_entry_names_its_key(cache):
    key = key_of("numbers", [])
    cache.put(key, Entry({}, {}))
    assert json.loads((cache.folder / key / "entry.json").read_text())["content"]["key"] == key
