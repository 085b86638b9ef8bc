"""A prompt is read and measured when it is drawn; one that cannot be used is refused with its file and row."""

import threading

import numpy as np
import pytest

from actors.images import load_image_inputs
from dps_ray.config import settings
from dps_ray.errors import DataError
from dps_ray.prompts.cache import Cache
from dps_ray.prompts.dataset import PromptTable
from dps_ray.prompts.files import write_prompts
from pipelines.rollout import measuring
from pipelines.rollout.pool import PromptPool
from pipelines.rollout.processors import load_tokenizer
from pipelines.rollout.read_ahead import ReadAhead
from tests.squares import row, square

LONG = 40


def make_pool(path, model, *overrides, measure="drawn", cache=None, progress=lambda *_: None):
    config = settings.load(None, [f"model.path={model}", *overrides])
    images = load_image_inputs(str(model), config.data.max_pixels)
    tokenizer = load_tokenizer(str(model), None)
    table = PromptTable.open(path)
    return PromptPool(table, tokenizer, images, config, progress, measure, cache)


@pytest.fixture
def texts(tmp_path):
    """Ten prompts, every third of them too long for a limit of `LONG` tokens."""
    path = tmp_path / "texts.parquet"
    write_prompts(
        path, [row("red", i, [], f"{i}+1=" * (20 if i % 3 == 0 else 1)) for i in range(10)]
    )
    return path


def test_nothing_is_left_out_of_a_pool_before_it_is_drawn(texts, tiny_policy):
    pool = make_pool(texts, tiny_policy, f"data.max_prompt_length={LONG}")
    assert (len(pool.ids), pool.skipped) == (10, 0)


def test_a_prompt_that_is_too_long_is_refused_with_file_row_and_length(texts, tiny_policy):
    pool = make_pool(texts, tiny_policy, f"data.max_prompt_length={LONG}")
    drawn, refused = pool.draw(pool.ids)
    assert list(refused) == pool.ids[[0, 3, 6, 9]].tolist()
    assert [request.prompt_id for request in drawn.requests] == pool.ids[
        [1, 2, 4, 5, 7, 8]
    ].tolist()
    assert [prompt.id for prompt in drawn.prompts] == [r.prompt_id for r in drawn.requests]
    assert f"{texts}, row 3: prompt {pool.ids[3]} has " in str(refused[pool.ids[3]])
    assert f"more than data.max_prompt_length={LONG}; raise it" in str(refused[pool.ids[3]])


def test_drawing_finds_the_lengths_that_measuring_all_of_them_finds(texts, tiny_policy):
    limit = f"data.max_prompt_length={LONG}"
    drawn, _ = make_pool(texts, tiny_policy, limit).draw(PromptTable.open(texts).ids)
    upfront = make_pool(texts, tiny_policy, limit, measure="upfront")
    assert upfront.ids.tolist() == drawn.ids.tolist()
    assert upfront.skipped == 4


def test_with_overlong_prompts_error_a_long_prompt_is_an_error_with_file_and_row(
    texts, tiny_policy
):
    strict = (f"data.max_prompt_length={LONG}", "data.overlong_prompts=error")
    pool = make_pool(texts, tiny_policy, *strict)
    with pytest.raises(DataError, match=r"texts.parquet, row 3: prompt -?\d+ has \d+ tokens"):
        pool.draw(pool.ids[1:])
    with pytest.raises(DataError, match=r"texts.parquet, row 0: prompt -?\d+ has \d+ tokens"):
        make_pool(texts, tiny_policy, *strict, measure="upfront")


@pytest.fixture
def pictures(tmp_path):
    def write(*damaged):
        path = tmp_path / "squares.parquet"
        whole = square("red")
        rows = [row("red", i, [whole[:-20] if i in damaged else whole]) for i in range(9)]
        write_prompts(path, rows)
        return path

    return write


def test_a_damaged_image_costs_its_own_prompt_alone(pictures, vision_policy):
    pool = make_pool(pictures(4), vision_policy)
    drawn, refused = pool.draw(pool.ids)
    assert list(refused) == [pool.ids[4]]
    assert "row 4, column 'images': image 0 of prompt" in str(refused[pool.ids[4]])
    assert drawn.ids.tolist() == np.delete(pool.ids, 4).tolist()


def test_what_is_wrong_with_every_prompt_is_an_error(pictures, vision_policy):
    pool = make_pool(pictures(*range(9)), vision_policy)
    with pytest.raises(DataError, match="row 0, column 'images'"):
        pool.draw(pool.ids)
    with pytest.raises(DataError, match="row 0, column 'images'"):
        pool.try_out("squares.parquet")


@pytest.mark.slow
def test_measuring_over_processes_finds_the_same_lengths(texts, tiny_policy, monkeypatch):
    limit = (f"data.max_prompt_length={LONG}",)
    alone = make_pool(texts, tiny_policy, *limit, measure="upfront")
    monkeypatch.setattr(measuring, "_WORTH_PROCESSES", 1)
    monkeypatch.setattr(measuring, "_CHUNK_WITH_IMAGES", 3)
    told = []
    pool = make_pool(
        texts, tiny_policy, *limit, measure="upfront", progress=lambda *seen: told.append(seen)
    )
    assert pool.ids.tolist() == alone.ids.tolist()
    assert [done for done, _, _ in told] == [3, 6, 9, 10]


@pytest.mark.slow
def test_an_error_in_another_process_names_file_and_row(tmp_path, vision_policy, monkeypatch):
    path = tmp_path / "squares.parquet"
    write_prompts(
        path, [row("red", i, [square("red")[: -20 * (i == 2)] or square("red")]) for i in range(4)]
    )
    monkeypatch.setattr(measuring, "_WORTH_PROCESSES", 1)
    monkeypatch.setattr(measuring, "_CHUNK_WITH_IMAGES", 2)
    with pytest.raises(DataError, match="row 2, column 'images'"):
        make_pool(path, vision_policy, measure="upfront")


def test_measured_lengths_are_kept_and_any_limit_is_applied_to_them(
    texts, tiny_policy, tmp_path, monkeypatch
):
    cache = Cache(tmp_path / "cache", pytest.fail)
    first = make_pool(texts, tiny_policy, measure="upfront", cache=cache)
    assert first.skipped == 0
    monkeypatch.setattr(measuring, "_chunks", lambda *_: pytest.fail("measured again"))
    again = make_pool(
        texts, tiny_policy, f"data.max_prompt_length={LONG}", measure="upfront", cache=cache
    )
    assert again.skipped == 4
    strict = (f"data.max_prompt_length={LONG}", "data.overlong_prompts=error")
    with pytest.raises(DataError, match="row 0: prompt"):
        make_pool(texts, tiny_policy, *strict, measure="upfront", cache=cache)


# Reading ahead.


def test_prompts_that_were_expected_are_not_read_again(texts):
    table, reads = PromptTable.open(texts), []

    def read(ids):
        reads.append(ids.tolist())
        return table.rows(ids)

    reader = ReadAhead(read)
    reader.expect(table.ids[:4])
    assert reader.count(table.ids[2:6]) == 2
    found = reader.rows(table.ids[[5, 3, 2]])
    assert found == table.rows(table.ids[[5, 3, 2]])
    assert reads == [table.ids[:4].tolist(), [table.ids[5]]]
    reader.expect(table.ids[3:6])
    reader.rows(table.ids[:1])
    assert reads[2:] == [table.ids[[4, 5]].tolist(), [table.ids[0]]]


def test_reading_waits_for_the_background_so_that_one_read_runs_at_a_time(texts):
    table = PromptTable.open(texts)
    reads, busy = [], threading.Lock()

    def read(ids):
        assert busy.acquire(blocking=False), "two reads at a time"
        reads.append(len(ids))
        found = table.rows(ids)
        busy.release()
        return found

    reader = ReadAhead(read)
    for start in range(5):
        reader.expect(table.ids[start : start + 4])
        reader.rows(table.ids)
    assert len(reads) == 10


def test_what_the_background_cannot_read_is_an_error_where_it_is_needed(texts):
    table = PromptTable.open(texts)
    broken = {"is": True}

    def read(ids):
        if broken["is"]:
            raise DataError("the disk is gone")
        return table.rows(ids)

    reader = ReadAhead(read)
    reader.expect(table.ids[:3])
    with pytest.raises(DataError, match="the disk is gone"):
        reader.rows(table.ids[:1])
    broken["is"] = False
    assert reader.rows(table.ids[:1]) == table.rows(table.ids[:1])
