"""The environment `calculator`: one operation a turn, then the result."""

import time

import pytest

from dps_ray.environments.calculator import MAX_DIGITS, Calculator, calculate
from dps_ray.environments.episode import Episode, load_environment
from dps_ray.errors import RewardError
from dps_ray.prompts.dataset import Prompt

WRONG = {"score": 0.0, "acc": 0.0}
RIGHT = {"score": 1.0, "acc": 1.0}


def prompt(truth="23"):
    return Prompt(7, [{"role": "user", "content": "3+4*5?"}], "calculator", truth, {}, [])


def begun(truth="23"):
    environment = Calculator()
    environment.reset(prompt(truth))
    return environment


def says(text):
    return [{"role": "user", "content": text}]


def test_an_episode_of_two_calls_and_the_right_result_scores_1():
    environment = Calculator()
    assert environment.reset(prompt()) == says("3+4*5?")
    assert environment.step("4*5") == (says("20;"), WRONG)
    assert environment.step("3+20") == (says("23;"), WRONG)
    assert environment.step("=23") == (None, RIGHT)


@pytest.mark.parametrize("response", ["=35", "=-23", "=0"])
def test_a_wrong_result_ends_the_episode_with_0(response):
    assert begun().step(response) == (None, WRONG)


def test_a_result_may_be_negative():
    assert begun("-4").step("=-4") == (None, RIGHT)


@pytest.mark.parametrize("response", [" 4*5 ", "4*5;", "4*5 ;", "4*5\n"])
def test_blanks_and_a_semicolon_around_a_call_do_not_matter(response):
    assert begun().step(response) == (says("20;"), WRONG)


@pytest.mark.parametrize(
    "response",
    [
        "",
        "?",
        "4*",
        "*5",
        "4*5*6",
        "4/5",
        "4**5",
        "4 * 5",
        "(4*5)",
        "4*5=20",
        "=",
        "=2 3",
        "٤*٥",
        "__import__('os')",
        "4*5\n=23",
        f"1*{'9' * (MAX_DIGITS + 1)}",
    ],
)
def test_what_is_no_call_is_answered_with_a_question_mark_and_the_episode_goes_on(response):
    environment = begun()
    assert environment.step(response) == (says("?;"), WRONG)
    assert environment.step("=23") == (None, RIGHT)


@pytest.mark.parametrize(
    ("call", "value"),
    [("4*5", 20), ("3-20", -17), ("-17+5", -12), ("3--4", 7), ("-3*-4", 12), ("007+1", 8)],
)
def test_the_calculator_adds_subtracts_and_multiplies_whole_numbers(call, value):
    assert calculate(call) == value


def test_the_longest_numbers_are_computed_exactly():
    longest = "9" * MAX_DIGITS
    assert calculate(f"{longest}*{longest}") == int(longest) ** 2


def test_a_response_of_a_million_characters_is_refused_at_once():
    begin = time.monotonic()
    for text in ("9" * 10**6, "9" * 10**6 + "*9", "=" + "9" * 10**6, " " * 10**6 + "!"):
        assert begun().step(text) == (says("?;"), WRONG)
    assert time.monotonic() - begin < 5


def test_the_same_responses_get_the_same_answers():
    responses = ["3+4", "nonsense", "7*5", "=35"]
    one, other = begun(), begun()
    assert [one.step(r) for r in responses] == [other.step(r) for r in responses]


@pytest.mark.parametrize("truth", ["x", None, "3+4"])
def test_a_ground_truth_that_is_no_number_is_an_error(truth):
    with pytest.raises(RewardError, match="ground truth such as '23'"):
        Calculator().reset(prompt(truth))


def test_it_is_found_by_its_name():
    episode = Episode(load_environment("calculator", {}), prompt(), seed=0)
    assert episode.reset().messages == says("3+4*5?")
    last = episode.step("=23")
    assert (last.messages, last.score, last.accuracy) == (None, 1.0, 1.0)
