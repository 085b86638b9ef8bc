import math
import pickle

import numpy as np
import pytest

from dps_ray import tasks
from dps_ray.errors import RewardError
from dps_ray.prompts import Prompt
from dps_ray.rewards import load_reward, score_group

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
    scores, _ = score_group(load_reward(f"{file}:reward"), PROMPT, ["", "abc"])
    assert scores.tolist() == [0.5, 3.5]


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


def test_the_function_gets_the_row_and_each_response():
    seen = []

    def reward(data_source, solution_str, ground_truth, extra_info=None):
        seen.append((data_source, solution_str, ground_truth, extra_info))
        return 0.0

    score_group(reward, PROMPT, ["a", "b"])
    assert seen == [("sums", "a", "3", {"level": 1}), ("sums", "b", "3", {"level": 1})]


@pytest.mark.parametrize(
    "value", [1, 1.0, True, np.float32(1), np.int64(1), np.bool_(True), {"score": 1, "extra": "x"}]
)
def test_scores_may_be_any_number_or_a_dict(value):
    scores, accuracies = score_group(returning(value), PROMPT, ["a", "b"])
    assert scores.dtype == accuracies.dtype == np.float64
    assert scores.tolist() == accuracies.tolist() == [1.0, 1.0]


def test_a_shaped_score_without_accuracy_is_not_taken_for_right():
    scores, accuracies = score_group(returning(0.1), PROMPT, ["a"])
    assert scores.tolist() == [0.1]
    assert accuracies.tolist() == [0.0]


def test_the_accuracy_given_wins_over_the_score():
    _, accuracies = score_group(returning({"score": -1.0, "acc": np.bool_(True)}), PROMPT, ["a"])
    assert accuracies.tolist() == [1.0]
    _, accuracies = score_group(returning({"score": 5.0, "acc": 0.5}), PROMPT, ["a"])
    assert accuracies.tolist() == [0.5]


def test_an_empty_group_has_no_scores():
    scores, accuracies = score_group(returning(1.0), PROMPT, [])
    assert scores.shape == accuracies.shape == (0,)


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
        score_group(returning(value), PROMPT, ["a"])
    message = str(caught.value)
    culprit = value["acc"] if isinstance(value, dict) and value.get("score") == 1.0 else value
    for part in ("'sums'", "42", repr(culprit)[:100], "return a number"):
        assert part in message


def test_an_exception_in_the_function_is_told_with_its_type_and_text():
    def reward(**fields):
        raise KeyError("difficulty")

    with pytest.raises(
        RewardError, match=r"raised KeyError: 'difficulty'.*'sums', prompt 42"
    ) as caught:
        score_group(reward, PROMPT, ["a"])
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_reward_error_in_the_function_is_told_with_its_prompt():
    with pytest.raises(RewardError, match=r"'sums', prompt 42: no built-in reward for"):
        score_group(tasks.compute_score, PROMPT, ["a"])


def test_errors_travel_between_processes():
    with pytest.raises(RewardError) as caught:
        score_group(returning(None), PROMPT, ["a"])
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is RewardError
    assert str(again) == str(caught.value)
