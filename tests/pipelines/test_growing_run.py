"""A run whose data gains a file between two starts: what it keeps, what it says, and what it refuses."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from dps_ray import BeliefStore
from dps_ray.durable import committed, manifests, reshard
from dps_ray.prompts.dataset import PromptTable
from dps_ray.selection.pooled import PooledStore, number_within
from pipelines.training.pool_record import PoolRecord, numbered_as
from tests.faults.beliefs_run import beliefs_in
from tests.runs import newest, run

pytestmark = pytest.mark.slow


def dps(table, before=None, last=None):
    return BeliefStore(table.ids, decay=0.7)


def dps_pooled(table, before=(), last=None):
    found = table.labels("extra_info.level")
    labels, _ = numbered_as(before, found.labels, found.names)
    clusters = number_within(table.ids, labels, 0, last)
    return PooledStore(table.ids, clusters, observation="counts", group_size=4, temperature=0.5)


@pytest.fixture(scope="module")
def halves(chains, tmp_path_factory):
    """The training prompts in two files: 70 prompts, and 50."""
    folder, rows = tmp_path_factory.mktemp("halves"), pq.read_table(chains[0])
    for name, part in (("one", rows.slice(0, 70)), ("two", rows.slice(70))):
        pq.write_table(part, folder / f"{name}.parquet")
    return folder / "one.parquet", folder / "two.parquet"


@pytest.mark.parametrize(
    ("store", "settings"),
    [(dps, ("method=dps",)), (dps_pooled, ("method=dps_pooled", "selector.temperature=0.5"))],
)
def test_a_resumed_run_takes_in_a_file_that_was_added_and_keeps_what_it_knows(
    store, settings, halves, chains, able_policy, tmp_path, capsys
):
    one, two = halves
    both = f"data.train=[{one},{two}]"
    data = (one, chains[1])
    assert run(tmp_path, able_policy, data, *settings, "resources.beliefs.shards=2") == 0
    storage, first = newest(tmp_path)
    known = PoolRecord.load(storage, first)
    assert len(known.known_ids) > 20
    capsys.readouterr()

    # It goes on with more prompts, more shards, and the beliefs of before.
    more = (*settings, "resources.beliefs.shards=3")
    assert run(tmp_path, able_policy, data, *more, both, "loop.steps=6") == 0
    said = capsys.readouterr().out
    assert f"1 file came to data.train: {two} (50 prompts)" in said
    assert "the pool had 70 prompts, and has 120" in said
    storage, manifest = newest(tmp_path)
    old = store(PromptTable.open(one))
    steps = dict(committed(storage, manifest))
    for step in range(1, 4):
        old.observe(steps[step])
    table = PromptTable.open([one, two])
    expected = store(table, known.cluster_names, known.known_ids)
    expected.load_state(old.snapshot())
    for step in range(4, 7):
        expected.observe(steps[step])
    (state,), found = reshard([expected.snapshot()], 1), beliefs_in(storage, manifest)
    assert found.keys() == state.keys()
    for name in state:
        np.testing.assert_array_equal(found[name], state[name], err_msg=name)
    observed = np.unique(np.concatenate([each.ids for each in steps.values()]))
    record = PoolRecord.load(storage, manifest)
    np.testing.assert_array_equal(record.known_ids, observed)
    assert np.isin(observed, PromptTable.open(two).ids).any()

    # Nothing is said when nothing has changed, also of files in another order.
    again = f"data.train=[{two},{one}]"
    assert run(tmp_path, able_policy, data, *more, again, "loop.steps=7") == 0
    assert "data.train:" not in capsys.readouterr().out

    # What it has observed must stay.
    before = manifests(storage)
    assert run(tmp_path, able_policy, data, *more, f"data.train={two}", "loop.steps=8") == 2
    assert "prompts that this run has observed are not in data.train" in capsys.readouterr().err
    assert manifests(storage) == before
