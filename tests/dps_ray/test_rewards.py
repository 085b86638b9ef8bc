import math
import pickle

import numpy as np
import pytest

from dps_ray import tasks
from dps_ray.errors import NonFiniteError, RewardError
from dps_ray.prompts import Prompt
from dps_ray.rewards import load_reward, score_response

PROMPT = Prompt(
    id=42,
    messages=[{"role": "user", "content": "1+2="}],
    data_source="sums",
    ground_truth="3",
    extra_info={"level": 1},
    images=[],
)


def returning(value):
    return lambda data_source, solution_str, ground_truth, extra_info=None: value


def test_no_name_means_the_built_in_tasks():
    assert load_reward(None) is tasks.compute_score


def test_a_function_is_found_in_a_module():
    assert load_reward("dps_ray.tasks:compute_score") is tasks.compute_score


def test_a_function_is_found_in_a_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Settings:\n"
        "    bonus: float = 0.5\n"
        "def reward(data_source, solution_str, ground_truth, extra_info=None):\n"
        "    return len(solution_str) + Settings().bonus\n"
    )
    reward = load_reward(f"{file}:reward")
    assert [score_response(reward, PROMPT, text)[0] for text in ("", "abc")] == [0.5, 3.5]


@pytest.mark.parametrize(
    "spec", ["dps_ray.tasks", "compute_score", ":compute_score", "dps_ray:", ""]
)
def test_a_name_without_module_or_function_is_refused_with_both_forms(spec):
    with pytest.raises(RewardError, match=r"package\.module:function.*path/to/file\.py:function"):
        load_reward(spec)


def test_a_missing_function_lists_those_there_are():
    with pytest.raises(RewardError, match=r"no function 'compute_scores'.*compute_score"):
        load_reward("dps_ray.tasks:compute_scores")


def test_a_missing_module_is_named():
    with pytest.raises(RewardError, match=r"'no_such_package\.rewards'.*ModuleNotFoundError"):
        load_reward("no_such_package.rewards:score")


def test_a_missing_file_lists_its_neighbours(tmp_path):
    (tmp_path / "other.py").write_text("")
    with pytest.raises(RewardError, match=r"mine\.py.*other\.py"):
        load_reward(f"{tmp_path}/mine.py:score")


def test_a_file_that_fails_to_load_says_why(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("def score(:")
    with pytest.raises(RewardError, match=r"broken\.py.*SyntaxError"):
        load_reward(f"{file}:score")


def test_the_function_gets_the_row_and_the_response():
    seen = []

    def reward(data_source, solution_str, ground_truth, extra_info=None):
        seen.append((data_source, solution_str, ground_truth, extra_info))
        return 0.0

    score_response(reward, PROMPT, "a")
    assert seen == [("sums", "a", "3", {"level": 1})]


@pytest.mark.parametrize(
    "value", [1, 1.0, True, np.float32(1), np.int64(1), np.bool_(True), {"score": 1, "extra": "x"}]
)
def test_scores_may_be_any_number_or_a_dict(value):
    score, accuracy = score_response(returning(value), PROMPT, "a")
    assert type(score) is type(accuracy) is float
    assert score == accuracy == 1.0


def test_a_shaped_score_without_accuracy_is_not_taken_for_right():
    assert score_response(returning(0.1), PROMPT, "a") == (0.1, 0.0)


def test_the_accuracy_given_wins_over_the_score():
    wrong = returning({"score": -1.0, "acc": np.bool_(True)})
    assert score_response(wrong, PROMPT, "a") == (-1.0, 1.0)
    assert score_response(returning({"score": 5.0, "acc": 0.5}), PROMPT, "a") == (5.0, 0.5)


@pytest.mark.parametrize(
    "value",
    [
        None,
        math.nan,
        math.inf,
        np.float64("nan"),
        10**400,
        "1.0",
        [1.0, 0.0],
        np.array([1.0, 0.0]),
        {},
        {"acc": 1.0},
        {"score": None},
        {"score": math.nan},
        {"score": 1.0, "acc": math.nan},
        {"score": 1.0, "acc": 2},
        {"score": 1.0, "acc": -0.5},
        {"score": 1.0, "acc": None},
        {"score": 1.0, "acc": "yes"},
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_no_score_is_an_error_that_names_prompt_value_and_what_to_return(value):
    with pytest.raises(RewardError) as caught:
        score_response(returning(value), PROMPT, "a")
    message = str(caught.value)
    culprit = value["acc"] if isinstance(value, dict) and value.get("score") == 1.0 else value
    for part in ("'sums'", "42", repr(culprit)[:100], "return a number"):
        assert part in message


@pytest.mark.parametrize("value", [math.nan, -math.inf, np.float32("inf"), {"score": math.nan}])
def test_a_score_that_is_not_finite_is_told_from_what_is_no_score(value):
    with pytest.raises(NonFiniteError, match="prompt 42"):
        score_response(returning(value), PROMPT, "a")


@pytest.mark.parametrize("value", [None, 10**400, {"score": 1.0, "acc": math.nan}])
def test_what_is_no_score_at_all_is_no_such_error(value):
    with pytest.raises(RewardError) as caught:
        score_response(returning(value), PROMPT, "a")
    assert not isinstance(caught.value, NonFiniteError)


def test_running_out_of_memory_is_left_to_who_set_the_limit():
    def reward(**fields):
        raise MemoryError

    with pytest.raises(MemoryError):
        score_response(reward, PROMPT, "a")


def test_an_exception_in_the_function_is_told_with_its_type_and_text():
    def reward(**fields):
        raise KeyError("difficulty")

    with pytest.raises(
        RewardError, match=r"raised KeyError: 'difficulty'.*'sums', prompt 42"
    ) as caught:
        score_response(reward, PROMPT, "a")
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_reward_error_in_the_function_is_told_with_its_prompt():
    with pytest.raises(RewardError, match=r"'riddles', prompt 42: no built-in reward for"):
        score_response(tasks.compute_score, PROMPT._replace(data_source="riddles"), "a")


def test_errors_travel_between_processes():
    with pytest.raises(RewardError) as caught:
        score_response(returning(None), PROMPT, "a")
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is RewardError
    assert str(again) == str(caught.value)
