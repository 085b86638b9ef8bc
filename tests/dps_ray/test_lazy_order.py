"""`LazyOrder` against a plain sorted set."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dps_ray.selection.pool import lazy_order
from dps_ray.selection.pool.lazy_order import LazyOrder


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.complex128])
@pytest.mark.parametrize("untouched", [0, 1, 400])
@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 60))
def test_it_gives_the_smallest_keys_whatever_was_added_and_discarded(dtype, untouched, seed, size):
    rng = np.random.default_rng(seed)
    held = set(range(untouched))
    order = LazyOrder(
        dtype, untouched, lambda first, end: np.array(sorted(held & set(range(first, end))), int)
    )
    fresh = iter((untouched + rng.permutation(5_000)).tolist())
    for _ in range(40):
        if rng.random() < 0.7:
            added = [next(fresh) for _ in range(int(rng.integers(0, 100)))]
            order.add(np.array(added, dtype))
            held.update(added)
        if rng.random() < 0.7:
            pool = sorted(held)[: int(rng.choice([5, 50, 5000]))]
            gone = rng.permutation(pool)[: int(rng.integers(0, 80))].astype(int)
            order.discard(gone.astype(dtype))
            held.difference_update(gone.tolist())
        if rng.random() < 0.5:
            np.testing.assert_array_equal(order.smallest(size).real, sorted(held)[:size])
        assert len(order) == len(held)


@pytest.fixture(autouse=True)
def small_refills(monkeypatch):
    """So that a few hundred keys already go through range, bag, sweep and spill."""
    monkeypatch.setattr(lazy_order, "_LEAST_REFILL", 8)


def test_complex_keys_sort_by_the_real_part_then_by_the_imaginary():
    order = LazyOrder(np.complex128)
    order.add(np.array([-0.4 + 7j, -0.4 + 2j, -0.5 + 9j, 0.1 + 0j]))
    assert order.smallest(3).tolist() == [-0.5 + 9j, -0.4 + 2j, -0.4 + 7j]


def test_keys_that_come_and_go_do_not_pile_up():
    order = LazyOrder(np.int64, untouched=50)
    order.smallest(10)
    for start in range(100, 200_000, 100):
        order.add(np.arange(start, start + 100))
        order.discard(np.arange(start, start + 100))
    assert order.nbytes < 10_000


def test_a_range_of_any_length_takes_no_memory_until_it_is_drawn_from():
    order = LazyOrder(np.int64, untouched=10**12)
    assert order.smallest(3).tolist() == [0, 1, 2]
    assert order.nbytes < 1_000
