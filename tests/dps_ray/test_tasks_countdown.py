import json
import random
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dps_ray.errors import RewardError
from dps_ray.tasks.countdown import (
    TARGETS,
    evaluate,
    ground_truth,
    last_answer,
    make_problem,
    prompt_messages,
    score,
)

RIGHT = {"score": 1.0, "acc": 1.0}
WRONG = {"score": 0.1, "acc": 0.0}
UNANSWERED = {"score": 0.0, "acc": 0.0}
TRUTH = {"target": 24, "numbers": [4, 6, 1]}


def answered(expression):
    return f"<think>let me see</think> <answer>{expression}</answer>"


@pytest.mark.parametrize(
    "expression", ["4*6*1", " 4 * 6 / 1 ", "(4*(6))*1", "((4))*6*1", "4*\n6*1"]
)
def test_an_expression_that_reaches_the_target_is_right(expression):
    assert score(answered(expression), TRUTH) == RIGHT


def test_every_problem_made_is_solved_by_its_own_solution():
    rng = random.Random(0)
    for _ in range(300):
        problem = make_problem(rng)
        assert len(problem.numbers) in (3, 4)
        assert problem.target in TARGETS
        assert score(answered(problem.solution), ground_truth(problem)) == RIGHT


def test_problems_are_the_same_for_the_same_seed():
    assert [make_problem(random.Random(3)) for _ in range(2)] == [
        make_problem(random.Random(3))
    ] * 2


@pytest.mark.parametrize("style", ["chat", "base"])
def test_a_prompt_names_numbers_target_and_tags(style):
    problem = make_problem(random.Random(0))
    text = "\n".join(m["content"] for m in prompt_messages(problem, style))
    for part in (str(problem.numbers), str(problem.target), "<think>", "<answer>"):
        assert part in text
    assert problem.solution not in text


def test_the_base_prompt_ends_where_thinking_begins():
    [message] = prompt_messages(make_problem(random.Random(0)), "base")
    assert message["content"].endswith("<think>")


@pytest.mark.parametrize(
    "expression",
    [
        "4*6",  # a number left out
        "4*6*1*1",  # one used twice
        "4*6*1+0",  # one that was not given
        "4+6+1",
        "24",
        "46*1",
        "4*6**1",
        "4*6//1",
        "4*6*1 = 24",
        "4*6*1.0",
        "4*6*True",
        "4*6*1_0",
        "4*6*0x1",
        "4*6*٤",
        "4*6*1 # done",
        "__import__('os').getcwd()",
        "4*6*1,",
        "[4*6*1]",
        "4*6*1)",
        "(4*6*1",
        "4/(6-6)*1",
        "04*6*1",
        "",
    ],
)
def test_anything_else_in_the_tags_scores_only_for_its_format(expression):
    assert score(answered(expression), TRUTH) == WRONG


def test_division_by_zero_is_wrong():
    assert score(answered("5/(3-3)"), {"target": 0, "numbers": [5, 3, 3]}) == WRONG


def test_fractions_are_exact():
    # 1/3 + 1/3 + 1/3 is not 1 in every order of floating-point operations; 8/(3-8/3) is not 24.
    assert score(answered("8/(3-8/3)"), {"target": 24, "numbers": [3, 3, 8, 8]}) == RIGHT


def test_a_minus_sign_is_allowed():
    assert score(answered("-4+6*1"), {"target": 2, "numbers": [4, 6, 1]}) == RIGHT
    assert score(answered("+4+6*1"), {"target": 10, "numbers": [4, 6, 1]}) == WRONG


@pytest.mark.parametrize(
    "response", ["", "4*6*1", "<answer>4*6*1", "4*6*1</answer>", "</answer>4*6*1<answer>"]
)
def test_a_response_without_a_complete_answer_tag_scores_nothing(response):
    assert score(response, TRUTH) == UNANSWERED


def test_the_last_complete_answer_counts():
    assert last_answer("<answer>1</answer> no: <answer>2</answer> or <answer>3") == "2"
    assert score(answered("1") + answered("4*6*1"), TRUTH) == RIGHT
    assert score(answered("4*6*1") + answered("1"), TRUTH) == WRONG


@pytest.mark.parametrize(
    "text",
    [
        answered("9**9**9"),
        answered("9" * 10_000_000),
        answered("(" * 10_000 + "4*6*1" + ")" * 10_000),
        answered("(" * 95 + "4" + ")" * 95),
        answered("-" * 190 + "4*6*1"),
        answered("-(" * 60 + "4*6*1" + ")" * 60),
        answered("4*6*1\x00"),
        answered("\x00" * 1000),
        answered("\ud800"),
        answered("1+" * 5_000_000 + "1"),
        "<answer>" * 1_250_000,
        "<answer>" * 600_000 + "</answer>" * 500_000,
        "</answer>" * 1_100_000,
        "a" * 10_000_000,
    ],
    ids=lambda text: f"{text[:32]!r}...{len(text)}",
)
def test_hostile_texts_are_wrong_at_once(text):
    before = time.process_time()
    assert score(text, TRUTH)["acc"] == 0.0
    assert time.process_time() - before < 1


@given(
    st.permutations([1, 2, 3, 5]),
    st.lists(st.sampled_from("+-*/"), min_size=3, max_size=3),
    st.sampled_from(["{}{}{}{}{}{}{}", "({}{}{}){}({}{}{})", "{}{}({}{}(-{}{}{}))"]),
)
def test_the_value_is_that_of_python_in_exact_fractions(numbers, operators, shape):
    symbols = [numbers[0], *(s for pair in zip(operators, numbers[1:], strict=True) for s in pair)]
    try:
        fractions = shape.format(*(f"Fraction({s})" if s in numbers else s for s in symbols))
        exact = eval(fractions, {"Fraction": Fraction})
    except ZeroDivisionError:
        exact = None
    assert evaluate(shape.format(*symbols), [1, 2, 3, 5]) == exact


@given(st.text(max_size=300))
def test_no_text_makes_the_verifier_raise(text):
    assert score(text, TRUTH)["acc"] == 0.0
    assert score(answered(text), TRUTH)["score"] in (0.1, 1.0)


@pytest.mark.parametrize(
    "truth",
    [
        {"target": 24, "numbers": np.array([4, 6, 1])},
        {"target": np.int64(24), "numbers": (4, 6, 1)},
        json.dumps(TRUTH),
    ],
)
def test_ground_truths_come_as_parquet_or_json_gives_them(truth):
    assert score(answered("4*6*1"), truth) == RIGHT


@pytest.mark.parametrize("truth", [None, "24", "no json", {"target": 24}, [24], {"numbers": [4]}])
def test_a_ground_truth_that_is_none_is_an_error_that_shows_one(truth):
    with pytest.raises(RewardError, match=r"'target': 24, 'numbers'"):
        score(answered("4*6*1"), truth)
