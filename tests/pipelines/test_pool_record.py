"""The record of a pool in checkpoints: what a run knows, what has changed, what it refuses."""

import numpy as np
import pytest

from dps_ray.beliefs.states import observed
from dps_ray.config import settings
from dps_ray.durable import (
    Manifest,
    ObservationLog,
    Segment,
    Storage,
    checkpoint_folder,
    claim_epoch,
)
from dps_ray.errors import CheckpointError
from pipelines.training.checkpoint import FREE, _is_free
from pipelines.training.pool_record import (
    PoolRecord,
    changes,
    check_known,
    check_pool,
    numbered_as,
    population_of,
)

A, B, C = ("a.parquet", 4, "aa"), ("b.parquet", 3, "bb"), ("c.parquet", 2, "cc")
IDS = np.array([40, 10, 30, 20])


class Prompts:
    """A table of prompts in one file: their ids, and the hashes of their contents."""

    def __init__(self, ids, contents):
        self.ids, self.contents = np.asarray(ids), np.asarray(contents)
        self.fingerprint = f"{self.ids.tolist()} {self.contents.tolist()}"

    def __len__(self):
        return len(self.ids)

    def find(self, ids):
        rows = [np.flatnonzero(self.ids == id_) for id_ in ids]
        return (
            np.array([row[0] if len(row) else -1 for row in rows], np.int64),
            np.array([len(row) > 0 for row in rows], bool),
        )

    def place(self, id_):
        return f"a.parquet, row {self.ids.tolist().index(id_)}"


@pytest.fixture
def storage(tmp_path):
    return Storage.at(tmp_path)


def manifest_of(step, files=(), fingerprint="", epoch=1):
    return Manifest(
        epoch=epoch,
        step=step,
        files=tuple(files),
        lineage=(Segment(epoch, 0),),
        dataset_fingerprint=fingerprint,
        config_hash="",
        weight_version=step,
        belief_shards=1,
        learner_ranks=1,
        zero_stage=1,
        deepspeed_tag="",
    )


def saved(storage, record, step=3):
    return manifest_of(step, [record.save(storage, checkpoint_folder(1, step))])


def assert_same(one, other):
    assert vars(one).keys() == vars(other).keys()
    for name, value in vars(one).items():
        np.testing.assert_array_equal(value, vars(other)[name], err_msg=name)
        assert type(value) is type(vars(other)[name])


def seen(record):
    return dict(zip(record.known_ids.tolist(), record.known_contents.tolist(), strict=True))


# --- what it holds --------------------------------------------------------------------------------


@pytest.mark.parametrize("observed", [0, 3])
def test_a_record_is_read_back_from_a_checkpoint(storage, observed):
    record = PoolRecord.of([A, B], IDS, IDS % 3, IDS % 2, ["x", "y", "ä"])
    record.observe(IDS[:observed], IDS[:observed] + 1)
    record.last = IDS[:observed]
    assert_same(PoolRecord.load(storage, saved(storage, record)), record)


def test_a_checkpoint_of_an_earlier_version_has_none(storage):
    assert PoolRecord.load(storage, manifest_of(3)) is None


def test_observed_prompts_are_added_in_the_order_of_their_ids_and_once():
    record = PoolRecord.of([A], IDS)
    record.observe(np.array([30, 10]), np.array([3, 1]))
    record.observe(np.array([], np.int64), np.array([], np.int64))
    record.observe(np.array([50, 10, 5, 20, -7]), np.array([5, 1, 0, 2, 7]))
    assert record.known_ids.tolist() == [-7, 5, 10, 20, 30, 50]
    assert record.known_contents.tolist() == [7, 0, 1, 2, 3, 5]


def test_what_is_written_is_what_was_known_when_the_checkpoint_began(storage):
    record = PoolRecord.of([A], IDS)
    record.observe(IDS[:1], IDS[:1])
    write = record.saving(storage, checkpoint_folder(1, 3))
    record.observe(IDS[1:], IDS[1:])
    assert seen(PoolRecord.load(storage, manifest_of(3, write()))) == {40: 40}
    assert len(record.known_ids) == 4


def test_a_run_goes_back_to_what_it_had_observed_at_a_checkpoint(storage):
    table = Prompts(IDS, IDS + 1)
    before = PoolRecord.of([A], IDS)
    before.observe(IDS[:2], IDS[:2] + 1)
    early = saved(storage, before)
    now = PoolRecord.of([A, B], np.arange(9), before=before)
    now.observe(np.array([3]), np.array([4]))
    now.rewind(storage, early, table)
    assert seen(now) == {10: 11, 40: 41}
    assert now.files == (A, B)
    assert now.last.tolist() == [10, 40]
    now.rewind(storage, None, table)
    assert seen(now) == {}


def test_what_a_run_of_an_earlier_version_had_observed_is_in_its_log(storage):
    epoch = claim_epoch(storage)
    log = ObservationLog(storage, epoch)
    for step, ids in enumerate(([10, 30], [30, 40], [20]), start=1):
        log.append(step, observed(ids, [1] * len(ids), [8] * len(ids)))
    record = PoolRecord.of([A], IDS)
    record.rewind(storage, manifest_of(2, epoch=epoch), Prompts(IDS, IDS + 1))
    assert seen(record) == {10: 11, 30: 31, 40: 41}


def test_prompts_come_last_if_they_were_observed_when_the_pool_last_changed(storage):
    first = PoolRecord.of([A], IDS)
    first.observe(IDS[:2], IDS[:2])
    again = PoolRecord.of([B, A], IDS[::-1], before=first)
    assert not len(again.last)
    grown = PoolRecord.of([A, B], np.arange(50), before=again)
    assert grown.last.tolist() == [10, 40]
    grown.observe(np.array([3]), np.array([3]))
    resumed = PoolRecord.of([A, B], np.arange(50), before=grown)
    assert resumed.last.tolist() == [10, 40]
    assert seen(resumed) == {3: 3, 10: 10, 40: 40}
    assert PoolRecord.of([A, B], np.arange(51), before=grown).last.tolist() == [3, 10, 40]


def test_the_population_is_that_of_ids_clusters_and_sources_in_any_order():
    ids, kinds, order = np.arange(90), np.arange(90) % 4, np.random.default_rng(0).permutation(90)
    populations = [
        population_of(ids),
        population_of(ids[1:]),
        population_of(ids, kinds),
        population_of(ids, None, kinds),
        population_of(ids, kinds, kinds),
        population_of(ids, np.roll(kinds, 1), kinds),
        population_of(ids, kinds, np.roll(kinds, 1)),
    ]
    assert len(set(populations)) == len(populations)
    assert population_of(ids[order], kinds[order], kinds[order]) == populations[4]
    assert all(len(each) == 32 for each in populations)


def test_a_cluster_keeps_its_number_and_new_ones_follow():
    labels = np.array([2, 0, 1, 1])
    found, names = numbered_as(["m", "x"], labels, ["a", "m", "z"])
    assert names == ["m", "x", "a", "z"]
    assert [names[label] for label in found] == ["z", "a", "m", "m"]
    assert found.dtype == np.int32
    found, names = numbered_as([], labels, ["a", "m", "z"])
    assert (found.tolist(), names) == (labels.tolist(), ["a", "m", "z"])


# --- what has changed -----------------------------------------------------------------------------


def record_of(*files, ids=IDS, names=()):
    return PoolRecord.of(files, np.asarray(ids), cluster_names=names)


def test_nothing_is_said_of_a_pool_that_is_the_same():
    assert changes(record_of(A, B), record_of(A, B)) == []
    assert changes(record_of(A, B), record_of(("copy.parquet", 4, "aa"), B)) == []


def test_it_is_said_which_files_came_went_and_changed():
    before = record_of(A, B, ids=range(7), names=["x"])
    now = record_of(("a.parquet", 9, "new"), C, ids=range(11), names=["x", "y", "z"])
    now.observe(np.array([1, 2]), np.array([1, 2]))
    assert changes(before, now) == [
        "a.parquet has changed: 4 prompts before, 9 now",
        "1 file came to data.train: c.parquet (2 prompts)",
        "1 file left data.train: b.parquet (3 prompts)",
        "the pool had 7 prompts, and has 11",
        "2 new clusters: y, z",
        "of 2 prompts all that is known is kept; the others count as never seen",
    ]


def test_many_files_are_counted_and_some_named():
    more = [(f"{number}.parquet", 1_000, str(number)) for number in range(5)]
    line, *_ = changes(record_of(A), record_of(A, *more, ids=range(9)))
    assert line == (
        "5 files came to data.train: 0.parquet (1,000 prompts), 1.parquet (1,000 prompts), "
        "2.parquet (1,000 prompts) and 2 more"
    )


def test_files_that_hold_the_same_prompts_in_another_way_are_told_apart():
    lines = changes(record_of(A), record_of(("1.parquet", 2, "x"), ("2.parquet", 2, "y")))
    assert lines[-1] == "the prompts are the same"
    assert len(lines) == 3


def test_a_file_that_is_given_twice_came_once():
    (line, *_) = changes(record_of(A), record_of(A, ("copy.parquet", 4, "aa"), ids=range(8)))
    assert line == "1 file came to data.train: copy.parquet (4 prompts)"


def test_as_many_other_prompts_are_a_change():
    assert any("which ones" in line for line in changes(record_of(A), record_of(A, ids=range(4))))


# --- what is refused ------------------------------------------------------------------------------


def known(ids=(10, 30, 40)):
    record = PoolRecord.of([A], IDS)
    record.observe(np.array(ids, np.int64), np.array(ids, np.int64) + 1)
    return record


def test_prompts_that_the_run_never_saw_may_come_go_and_change():
    check_known(known(), Prompts([30, 99, 10, 40], [31, 0, 11, 41]), "a.parquet")
    check_known(known(()), Prompts([1], [1]), "a.parquet")


@pytest.mark.parametrize(
    ("ids", "contents", "named"),
    [
        (
            [40, 20],
            [41, 21],
            r"^2 of 3 prompts that this run has observed are not in data\.train=x: their rows were taken out or changed; "
            "the first is prompt 10; put them back to continue, or name another folder",
        ),
        (
            [40, 10, 30],
            [41, 11, 0],
            r"^1 of 3 prompts .* have another content in data\.train=x; the first is prompt 30, in a\.parquet, row 2; "
            "change them back",
        ),
    ],
)
def test_known_prompts_that_are_gone_or_have_changed_are_refused(ids, contents, named):
    with pytest.raises(CheckpointError, match=named):
        check_known(known(), Prompts(ids, contents), "x")


def test_known_prompts_that_are_not_drawn_from_the_data_any_more_are_refused():
    table = Prompts(IDS, IDS + 1)
    check_known(known(), table, "x", np.array([10, 40, 30]))
    with pytest.raises(CheckpointError, match=r"prompt 30, in a\.parquet, row 2; take the added"):
        check_known(known(), table, "x", np.array([10, 40]))


def test_a_checkpoint_of_an_earlier_version_wants_the_very_same_data(storage):
    table = Prompts(IDS, IDS)
    assert check_pool(storage, manifest_of(3, fingerprint=table.fingerprint), table, "x") is None
    with pytest.raises(CheckpointError, match="by an earlier version; put it back"):
        check_pool(storage, manifest_of(3, fingerprint="f00d"), table, "x")


def test_a_checkpoint_with_a_record_wants_the_prompts_that_were_observed(storage):
    manifest = saved(storage, known())
    assert_same(check_pool(storage, manifest, Prompts(IDS, IDS + 1), "x"), known())
    with pytest.raises(CheckpointError, match="1 of 3 prompts"):
        check_pool(storage, manifest, Prompts([10, 30], [11, 31]), "x")


def test_the_settings_that_may_change_are_whole_names():
    keys = [key for key, _ in settings.flatten(settings.load(None))]
    free = [key for key in keys if _is_free(key)]
    assert {"data.train", "loop.steps", "resources.beliefs.shards", "folder"} <= {*free}
    assert not {"data.train_max_samples", "data.test", "loop.batch_size", "method"} & {*free}
    # No other setting was freed by the way its name begins.
    assert {key for key in keys if key.startswith(FREE)} - {*free} == {"data.train_max_samples"}
