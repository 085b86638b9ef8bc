import numpy as np
import pytest

from dps_ray import Selection, merge
from dps_ray.selection.pool.ranking import best, ranks


def selection(*rows):
    """One prompt a row: id, score, times sampled, tie."""
    ids, score, times, tie = (np.array(column) for column in zip(*rows, strict=True))
    nothing = np.zeros((len(ids), 3))
    return Selection(ids, nothing, score, times, tie.astype(np.uint64), nothing[:, 0])


def test_the_best_of_all_shards_come_first():
    left = selection((1, 0.4, 3, 0), (2, 0.2, 0, 0))
    right = selection((3, 0.3, 9, 0), (4, 0.1, 0, 0))
    assert merge([left, right], 3).ids.tolist() == [1, 3, 2]


def test_equals_go_by_times_sampled_then_by_tie_then_by_id():
    rows = [(9, 0.3, 1, 5), (8, 0.3, 0, 7), (7, 0.3, 1, 4), (2, 0.3, 1, 4)]
    assert merge([selection(row) for row in rows], 4).ids.tolist() == [8, 2, 7, 9]


def test_who_is_put_back_comes_after_all_others_whatever_the_scores():
    late = selection((1, 1e9, 0, 0), (2, 0.1, 0, 0))._replace(behind=np.array([1e4, 0.0]))
    assert merge([selection((3, -1e9, 9, 9)), late], 3).ids.tolist() == [2, 3, 1]


def test_the_largest_ties_count_as_unsigned():
    assert merge([selection((1, 0.0, 0, 2**63)), selection((2, 0.0, 0, 1))], 1).ids.tolist() == [2]


def test_every_field_travels_with_its_prompt():
    left, right = selection((1, 0.1, 3, 4)), selection((2, 0.5, 6, 7))
    left.predicted[:] = 0.25
    merged = merge([left, right], 2)
    assert merged.predicted[:, 0].tolist() == [0, 0.25]
    assert merged.times_sampled.tolist() == [6, 3]
    assert merged.tie.tolist() == [7, 4]


@pytest.mark.parametrize("size", [3, -1])
def test_more_than_was_proposed_is_an_error(size):
    with pytest.raises(
        ValueError, match=f"{size} prompts were asked for, and the shards proposed 2"
    ):
        merge([selection((1, 0.1, 0, 0)), selection((2, 0.1, 0, 1))], size)


def test_a_prompt_that_two_shards_hold_is_an_error():
    with pytest.raises(ValueError, match="prompt 1 was proposed twice"):
        merge([selection((1, 0.1, 0, 0)), selection((1, 0.1, 0, 0))], 1)


def test_no_shards_are_an_error():
    with pytest.raises(ValueError, match="none"):
        merge([], 0)


def test_the_best_are_found_among_many_equals():
    rng = np.random.default_rng(0)
    score, keys = rng.integers(0, 4, 500) / 4, rng.permutation(500)
    order = np.lexsort((keys, -score))
    for size in (0, 1, 7, 130, 131, 499, 500, 501):
        assert sorted(best(ranks(score, keys), size)) == sorted(order[:size])
