import numpy as np
import pytest

from dps_ray import PARTIAL, SOLVED, UNSOLVED
from dps_ray.beliefs.states import observation, solve_states


def test_all_right_is_solved_none_right_unsolved_and_the_rest_partial():
    accuracies = np.array([[0, 0, 0, 0], [1, 0, 1, 1], [1, 1, 1, 1]], dtype=float)
    assert solve_states(accuracies).tolist() == [UNSOLVED, PARTIAL, SOLVED]


def test_partial_credit_is_no_success():
    assert solve_states([[0.9, 0.5], [0.9, 1.0]]).tolist() == [UNSOLVED, PARTIAL]


def test_groups_may_differ_in_size():
    assert solve_states([[1.0], [0, 0, 1], [0.0, 0.0]]).tolist() == [SOLVED, PARTIAL, UNSOLVED]


def test_there_may_be_no_groups():
    assert solve_states([]).dtype == np.int8


@pytest.mark.parametrize(
    ("groups", "named"),
    [
        ([[1.0], []], r"group 1 has accuracies of shape \(0,\)"),
        ([[0.0, float("nan")]], "group 0 has accuracy nan"),
        ([[0.0, 1.1]], "1.1"),
        ([[-0.1, 1.0]], "-0.1"),
    ],
)
def test_what_is_no_accuracy_is_an_error(groups, named):
    with pytest.raises(ValueError, match=named):
        solve_states(groups)


def test_an_observation_is_sorted_by_id():
    seen = observation([7, 3, 5], [[1, 0], [0, 0, 0], [1, 1]])
    assert seen.ids.tolist() == [3, 5, 7]
    assert seen.states.tolist() == [UNSOLVED, SOLVED, PARTIAL]
    assert seen.successes.tolist() == [0, 2, 1]
    assert seen.responses.tolist() == [3, 2, 2]
    assert [column.dtype for column in seen[:4]] == [np.int64, np.int8, np.int16, np.int16]
    assert seen.clusters is None
    assert seen.means is None


def test_nothing_observed_is_an_observation_too():
    assert all(len(column) == 0 for column in observation([], [])[:4])


@pytest.mark.parametrize(
    ("ids", "groups", "named"),
    [
        ([1, 2, 1], [[1], [1], [0]], "prompt 1"),
        ([1, 2], [[1]], "2 ids came with 1 group"),
        ([1.5], [[1]], "float64"),
    ],
)
def test_an_observation_that_cannot_be_right_is_an_error(ids, groups, named):
    with pytest.raises(ValueError, match=named):
        observation(ids, groups)
