import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dps_ray.hashing import BUCKETS, buckets, hash_ids, hash_key, hash_rows, shards, unhash_ids

INT64 = st.integers(-(2**63), 2**63 - 1)


def test_the_hash_is_splitmix64():
    # The first three outputs of SplitMix64 seeded with 1234567, from its reference implementation.
    states = np.array([1234567 + n * 0x9E3779B97F4A7C15 for n in (1, 2, 3)], dtype=object) % 2**64
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert hash_ids(states.astype(np.uint64).view(np.int64), key=0).tolist() == expected


@given(hnp.arrays(np.int64, st.integers(0, 50), elements=INT64), st.integers(0, 2**64 - 1))
def test_an_id_can_be_had_back_from_its_hash(ids, key):
    np.testing.assert_array_equal(unhash_ids(hash_ids(ids, key), key), ids)


def test_hashing_leaves_the_ids_as_they_were():
    ids = np.arange(5)
    hash_ids(ids, 3)
    assert ids.tolist() == [0, 1, 2, 3, 4]


def test_keys_differ_by_every_part_and_its_place():
    parts = [(0,), (1,), (0, 0), (0, 1), (1, 0), (-1, 0), (2**64, 1, 1)]
    assert len({hash_key(*each) for each in parts}) == len(parts)


def test_buckets_never_change():
    # Written down once: checkpoints outlive the process that placed their prompts.
    assert buckets(np.array([0, 1, 2, -1, 2**62])).tolist() == [262, 465, 330, 618, 0]


def test_the_hash_of_rows_never_changes_and_does_not_depend_on_their_order():
    # Written down once: checkpoints compare their pool with that of a later process.
    ids, kinds = np.array([3, -1, 2**62]), np.array([0, 1, 2], np.int32)
    assert hash_rows(5, ids, kinds) == 9188913931320893474
    assert hash_rows(5, ids[::-1], kinds[::-1].astype(np.int64)) == 9188913931320893474
    assert hash_rows(5, ids, kinds[::-1]) != 9188913931320893474
    assert hash_rows(5, ids) == 6760817269979629994


def test_consecutive_ids_spread_evenly_over_shards():
    ids = np.arange(100_000)
    assert np.bincount(buckets(ids), minlength=BUCKETS).min() > 50
    for count in (2, 3, 7):
        held = np.bincount(shards(ids, count), minlength=count)
        assert held.min() > 0.95 * len(ids) / count


def test_resharding_moves_whole_buckets():
    ids = np.arange(10_000)
    for bucket in range(0, BUCKETS, 100):
        assert len(np.unique(shards(ids[buckets(ids) == bucket], 7))) <= 1


@pytest.mark.parametrize("count", [0, -1, 1025])
def test_a_number_of_shards_that_buckets_cannot_fill_is_an_error(count):
    with pytest.raises(ValueError, match=str(count)):
        shards(np.arange(3), count)
