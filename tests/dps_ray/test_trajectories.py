import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dps_ray.objective.trajectories import (
    concatenate,
    micro_batches,
    minibatches,
    pack_images,
    pad,
    pad_values,
    with_blank,
)

lengths_of = st.lists(st.integers(1, 50), max_size=60).map(
    lambda values: np.array(values, dtype=np.int64)
)


@given(lengths=lengths_of, max_tokens=st.integers(50, 400), ranks=st.integers(1, 4))
def test_micro_batches_hold_every_sequence_once_within_the_budget(lengths, max_tokens, ranks):
    dealt = micro_batches(lengths, max_tokens, ranks)
    rows = [row for rank in dealt for pack in rank for row in pack]
    assert sorted(rows) == list(range(len(lengths)))
    assert all(len(p) * lengths[p].max() <= max_tokens for rank in dealt for p in rank if len(p))


@given(lengths=lengths_of, ranks=st.integers(1, 4))
def test_all_ranks_make_the_same_number_of_passes(lengths, ranks):
    dealt = micro_batches(lengths, 100, ranks)
    assert len({len(rank) for rank in dealt}) == 1


def test_a_sequence_longer_than_the_budget_is_an_error_that_names_both():
    with pytest.raises(ValueError, match="120 tokens does not fit a micro-batch of 100"):
        micro_batches(np.array([5, 120]), 100, 1)


@given(n=st.integers(1, 40), count=st.integers(1, 8))
def test_minibatches_share_the_rows_out_evenly_and_none_is_empty(n, count):
    parts = minibatches(n, count, np.random.default_rng(0))
    assert sorted(np.concatenate(parts)) == list(range(n))
    assert min(map(len, parts)) >= 1
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_padding_puts_prompt_response_and_logprobs_where_they_belong():
    trajectories = concatenate(
        [
            (
                np.array([1, 2], np.int32),
                np.array([3, 4, 5], np.int32),
                np.array([-0.1, -0.2, -0.3], np.float32),
                2.0,
            ),
            (np.array([6], np.int32), np.array([7], np.int32), np.array([-0.4], np.float32), -1.0),
        ]
    )
    batch = pad(trajectories, np.array([1, 0]))
    assert batch.tokens.tolist() == [[6, 7, 0, 0, 0], [1, 2, 3, 4, 5]]
    assert batch.response.tolist() == [[0, 1, 0, 0, 0], [0, 0, 1, 1, 1]]
    np.testing.assert_allclose(batch.logprobs, [[0, -0.4, 0, 0, 0], [0, 0, -0.1, -0.2, -0.3]])
    assert batch.advantages.tolist() == [[0, -1, 0, 0, 0], [0, 0, 2, 2, 2]]
    of_tokens = np.array([1, 2, 3, 4], np.float32)
    batch = pad(trajectories._replace(token_advantages=of_tokens), np.array([1, 0]))
    assert batch.advantages.tolist() == [[0, 4, 0, 0, 0], [0, 0, 1, 2, 3]]
    padded = pad_values(of_tokens, trajectories, np.array([1, 0]), (3, 5))
    assert padded.tolist() == [*batch.advantages.tolist(), [0] * 5]


def test_trained_tokens_are_counted_for_each_response():
    sequences = [
        (np.array([1], np.int32), np.arange(n, dtype=np.int32), np.zeros(n, np.float32), 1.0)
        for n in (2, 1, 3)
    ]
    trajectories = concatenate(sequences)
    assert trajectories.trained_lengths.tolist() == [2, 1, 3]
    trained = np.array([True, False, False, True, True, False])
    assert trajectories._replace(trained=trained).trained_lengths.tolist() == [1, 0, 2]


def test_a_pass_without_sequences_weighs_nothing():
    trajectories = concatenate(
        [(np.array([1], np.int32), np.array([2], np.int32), np.zeros(1, np.float32), 1.0)]
    )
    assert pad(trajectories, np.empty(0, dtype=np.int64)).response.sum() == 0


def test_responses_to_one_prompt_share_its_images():
    one, two = (b"first", b"second"), (b"third",)
    images = pack_images([one, one, (), two, two, two])
    assert len(images.files) == len(b"firstsecondthird")
    shown = [[images.file(i) for i in images.of(row)] for row in range(6)]
    assert shown == [list(one), list(one), [], [b"third"], [b"third"], [b"third"]]


def test_without_images_nothing_is_carried():
    assert pack_images([(), ()]) is None


def test_a_blank_sequence_has_one_token_and_no_response():
    tokens = [np.array(part, np.int32) for part in ([5, 6], [7, 8, 9])]
    batch = pad(concatenate([(*tokens, np.zeros(3, np.float32), 1.0)]), np.array([0]))
    longer = with_blank(batch, token=42)
    assert longer.tokens.tolist() == [[5, 6, 7, 8, 9], [42, 0, 0, 0, 0]]
    assert not longer.response[1].any()
    for before, after in zip(batch, longer, strict=True):
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(after[:-1], before)
