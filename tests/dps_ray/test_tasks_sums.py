"""Plain arithmetic: problems of each level, and what counts as the answer."""

import random
import time

import pytest

from dps_ray.errors import RewardError
from dps_ray.tasks import compute_score
from dps_ray.tasks.sums import LEVELS, distinct_problems, make_problem, result


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("95", True),
        (" 95.", True),
        ("95\n", True),
        ("The answer is 95.", True),
        ("38 + 57 = 95", True),
        ("38 + 57 = 96, no, 95", False),
        ("95 or 96", True),
        ("96", False),
        ("-95", False),
        ("950", False),
        ("38 + 57", False),
        ("ninety-five", False),
        ("", False),
        ("=", False),
    ],
)
def test_the_first_number_after_the_first_equals_sign_is_the_answer(response, right):
    assert compute_score("sums", response, "95") == {"score": right, "acc": right}


def test_thousands_may_be_separated():
    assert compute_score("sums", "1,234", "1234")["acc"] == 1.0
    assert compute_score("sums", "1,23", "123")["acc"] == 0.0


@pytest.mark.parametrize("truth", [None, "", "two", "1.5", {}])
def test_a_ground_truth_that_is_no_number_is_an_error(truth):
    with pytest.raises(RewardError, match="ground truth"):
        compute_score("sums", "1", truth)


def test_endless_responses_cost_nothing():
    started = time.process_time()
    for text in ("9" * 10_000_000, "1," * 5_000_000, "=" * 10_000_000, "\0" * 10_000_000):
        assert compute_score("sums", text, "95")["acc"] == 0.0
    assert time.process_time() - started < 1.0


@pytest.mark.parametrize("name", LEVELS)
def test_problems_of_a_level_have_its_numbers_and_the_result_that_python_gives(name):
    level, rng = LEVELS[name], random.Random(0)
    for _ in range(200):
        problem = make_problem(level, rng)
        parts = problem.split()
        assert len(parts[::2]) == level.terms
        assert all(len(number) == level.digits for number in parts[::2])
        assert set(parts[1::2]) == {level.operator}
        assert result(problem) == eval(problem) >= 0


@pytest.mark.parametrize("name", ["sums-1", "differences-2", "products-1", "three-1"])
def test_levels_have_as_many_problems_as_they_say(name):
    rng, level = random.Random(0), LEVELS[name]
    drawn = {make_problem(level, rng) for _ in range(30 * distinct_problems(level))}
    assert len(drawn) == distinct_problems(level)
