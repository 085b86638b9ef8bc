import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dps_ray.hashing import hash_ids, hash_key
from dps_ray.selection.pool.index import PromptIndex

INT64 = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(INT64, unique=True, max_size=300), st.integers(0, 5))
def test_positions_follow_the_seeded_hash_and_lead_back_to_the_ids(ids, seed):
    index = PromptIndex(ids, seed)
    positions = index.positions(ids)
    assert sorted(positions.tolist()) == list(range(len(ids)))
    assert index.ids(positions).tolist() == ids
    ties = hash_ids(np.array(ids, dtype=np.int64), hash_key(seed))
    np.testing.assert_array_equal(index.ties(positions), ties)
    np.testing.assert_array_equal(positions.argsort(), ties.argsort())


@given(st.lists(INT64, unique=True, max_size=300), st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_any_hash_is_placed_as_a_sorted_search_places_it(ids, hashes):
    index = PromptIndex(ids, seed=0)
    ties = np.sort(hash_ids(np.array(ids, dtype=np.int64), hash_key(0)))
    hashes = np.array([0, 2**64 - 1, *hashes, *ties.tolist()], dtype=np.uint64)
    np.testing.assert_array_equal(index.first_at_or_after(hashes), np.searchsorted(ties, hashes))


def test_a_large_pool_is_searched_as_well():
    ids = np.random.default_rng(0).permutation(200_000)
    index = PromptIndex(ids, seed=3)
    np.testing.assert_array_equal(index.ids(index.positions(ids[:999])), ids[:999])
    with pytest.raises(ValueError, match="id 200000 is not in the pool"):
        index.positions([5, 200_000])


def test_an_arc_of_a_given_length_goes_around_the_ring():
    index = PromptIndex(np.arange(10), seed=0)
    middle = int(index.ties(np.array([7]))[0])
    assert index.arc(middle, length=5).tolist() == [7, 8, 9, 0, 1]
    assert index.arc(middle + 1, length=2).tolist() == [8, 9]
    assert sorted(index.arc(middle, length=99).tolist()) == list(range(10))
    assert PromptIndex([], seed=0).arc(middle, length=5).tolist() == []


def test_an_arc_of_a_given_share_holds_those_whose_hashes_lie_in_it():
    index = PromptIndex(np.arange(1000), seed=0)
    ties = index.ties(np.arange(1000))
    for start in (0, 2**63, 2**64 - 5):
        inside = (ties - np.uint64(start)) < np.uint64(2**62)
        assert set(index.arc(start, share=0.25)) == set(np.flatnonzero(inside))
        assert len(index.arc(start, share=1.0)) == 1000
        assert len(index.arc(start, share=0.0)) == 0


@pytest.mark.parametrize(
    ("ids", "named"),
    [
        ([3, 5, 3], "id 3 stands in the pool twice"),
        ([0.0, 1.5], "float64"),
        ([1.0, float("nan")], "float64"),
        (["a"], "<U1"),
        ([[1, 2]], r"shape \(1, 2\)"),
        (np.array([1, 2**63], dtype=np.uint64), str(2**63)),
        ([True, False], "bool"),
    ],
)
def test_ids_that_cannot_name_prompts_are_an_error(ids, named):
    with pytest.raises(ValueError, match=named):
        PromptIndex(ids, seed=0)


def test_an_id_given_twice_is_named():
    with pytest.raises(ValueError, match="id 4 is given twice"):
        PromptIndex(np.arange(9), seed=0).distinct_positions([1, 4, 2, 4])
