import itertools
import random

import pytest

from dps_ray.errors import RewardError
from dps_ray.tasks import compute_score
from dps_ray.tasks.arithmetic import (
    LEVELS,
    Level,
    demonstration,
    distinct_problems,
    make_problem,
    noisy_demonstration,
    score,
)


def test_a_demonstration_works_from_left_to_right_modulo_ten():
    assert demonstration("6+6+9*7*5=") == "6+6=2,2+9=1,1*7=7,7*5=5;"
    assert demonstration("3-8*4=") == "3-8=5,5*4=0;"


def test_a_problem_has_the_operations_of_its_level():
    rng = random.Random(0)
    for level in LEVELS:
        prompt = make_problem(level, rng)
        operators = [c for c in prompt if c in "+-*"]
        assert len(operators) == level.operations
        assert operators.count("*") == level.multiplications
        assert level.subtraction or "-" not in prompt


def test_the_twenty_levels_are_distinct():
    assert len(set(LEVELS)) == 20
    assert len({str(level) for level in LEVELS}) == 20


@pytest.mark.parametrize("level", [Level(1, 0, subtraction=False), Level(1, 0), Level(1, 1)])
def test_the_count_of_distinct_problems_is_what_many_draws_find(level):
    rng = random.Random(0)
    assert len({make_problem(level, rng) for _ in range(4000)}) == distinct_problems(level)


def test_the_count_of_distinct_problems_is_that_of_all_operator_orders():
    # One product among three steps: 3 places, and + or - at the 2 others.
    orders = [o for o in itertools.product("+-*", repeat=3) if o.count("*") == 1]
    assert distinct_problems(Level(3, 1)) == 10 * 8**3 * len(orders)


def test_problems_are_the_same_for_the_same_seed():
    one, two = ([make_problem(level, random.Random(7)) for level in LEVELS] for _ in range(2))
    assert one == two


def test_noisy_demonstrations_get_most_products_wrong_and_most_sums_right():
    rng = random.Random(0)
    right = {
        operator: sum(
            noisy_demonstration(f"7{operator}9=", rng) == demonstration(f"7{operator}9=")
            for _ in range(2000)
        )
        / 2000
        for operator in "+-*"
    }
    assert right["+"] > 0.98
    assert 0.84 < right["-"] < 0.94
    assert 0.25 < right["*"] < 0.40


def test_a_noisy_demonstration_carries_its_mistakes_on():
    rng = random.Random(1)
    for _ in range(200):
        steps = noisy_demonstration("7*9*8*7=", rng).rstrip(";").split(",")
        for step, following in itertools.pairwise(steps):
            assert following[0] == step[-1]


@pytest.mark.parametrize(
    "response",
    ["", "6+6=2", "6+6=2;;", " 6+6=2;", "6+6=2;\x00", "6+6=1;", "6" * 10_000_000],
)
def test_only_the_exact_chain_is_right(response):
    assert score("6+6=2;", "6+6=2;") == {"score": 1.0, "acc": 1.0}
    assert score(response, "6+6=2;") == {"score": 0.0, "acc": 0.0}


def test_compute_score_picks_the_verifier_by_data_source():
    assert compute_score("arithmetic", "1+2=3;", "1+2=3;") == {"score": 1.0, "acc": 1.0}
    truth = {"target": 3, "numbers": [1, 2]}
    assert compute_score("countdown", "<answer>1+2</answer>", truth)["acc"] == 1.0


def test_an_unknown_data_source_names_those_there_are_and_what_to_do():
    with pytest.raises(RewardError, match=r"'poetry'.*arithmetic, countdown.*reward function"):
        compute_score("poetry", "roses", "red")
