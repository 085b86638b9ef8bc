"""The environment `guess_the_number`: higher, lower, and a limit on guesses."""

import json

import pytest

from dps_ray.environments.episode import Episode, load_environment
from dps_ray.environments.guess_the_number import GuessTheNumber
from dps_ray.errors import RewardError
from dps_ray.prompts.dataset import Prompt

WRONG = {"score": 0.0, "acc": 0.0}
RIGHT = {"score": 1.0, "acc": 1.0}
TRUTH = {"secret": 41, "guesses": 4}


def prompt(truth=TRUTH):
    messages = [{"role": "user", "content": "(32,46)4?"}]
    return Prompt(7, messages, "guess_the_number", truth, {}, [])


def begun(truth=TRUTH):
    environment = GuessTheNumber()
    environment.reset(prompt(truth))
    return environment


def says(text):
    return [{"role": "user", "content": text}]


def test_guesses_are_answered_with_higher_or_lower_until_the_number_is_found():
    environment = GuessTheNumber()
    assert environment.reset(prompt()) == says("(32,46)4?")
    assert environment.step("39") == (says("+;"), WRONG)
    assert environment.step("43") == (says("-;"), WRONG)
    assert environment.step("41") == (None, RIGHT)


def test_the_last_allowed_guess_may_be_right():
    environment = begun()
    for guess in ("32", "33", "34"):
        assert environment.step(guess) == (says("+;"), WRONG)
    assert environment.step("41") == (None, RIGHT)


def test_after_the_last_allowed_guess_the_episode_is_over():
    environment = begun()
    for guess in ("46", "45", "44"):
        assert environment.step(guess) == (says("-;"), WRONG)
    assert environment.step("43") == (None, WRONG)


@pytest.mark.parametrize(
    "response", ["", "?", "x", "4 1", "41?", "-41", "+", "41.0", "٤١", "9" * 13]
)
def test_what_is_no_number_is_answered_with_a_question_mark_and_costs_a_guess(response):
    environment = begun({"secret": 41, "guesses": 2})
    assert environment.step(response) == (says("?;"), WRONG)
    assert environment.step(response) == (None, WRONG)


@pytest.mark.parametrize("response", [" 41 ", "41;", "41 ;", "041"])
def test_blanks_a_semicolon_and_leading_zeros_do_not_matter(response):
    assert begun().step(response) == (None, RIGHT)


def test_halving_what_is_left_finds_every_number_in_the_logarithm_of_the_range():
    for secret in range(32, 47):  # 15 numbers, 4 guesses
        environment, low, high = begun({"secret": secret, "guesses": 4}), 32, 46
        while True:
            middle = (low + high) // 2
            messages, reward = environment.step(str(middle))
            if messages is None:
                break
            low, high = (middle + 1, high) if messages == says("+;") else (low, middle - 1)
        assert reward == RIGHT


def test_the_same_guesses_get_the_same_answers():
    guesses = ["40", "x", "44", "42"]
    one, other = begun(), begun()
    assert [one.step(g) for g in guesses] == [other.step(g) for g in guesses]


@pytest.mark.parametrize(
    "truth",
    [
        "41",
        "no JSON",
        None,
        [41, 4],
        {"secret": 41},
        {"secret": "x", "guesses": 4},
        {"secret": 41, "guesses": 0},
    ],
)
def test_a_ground_truth_without_number_or_guesses_is_an_error(truth):
    with pytest.raises(RewardError, match="'secret': 41, 'guesses': 4"):
        GuessTheNumber().reset(prompt(truth))


def test_it_is_found_by_its_name_and_takes_its_ground_truth_as_json():
    make = load_environment("guess_the_number", {})
    episode = Episode(make, prompt(json.dumps(TRUTH)), seed=0)
    assert episode.reset().messages == says("(32,46)4?")
    assert episode.step("41").accuracy == 1.0
