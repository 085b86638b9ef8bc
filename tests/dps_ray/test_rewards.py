import asyncio
import functools
import math
import pickle
import sys
import sysconfig

import numpy as np
import pytest

from dps_ray import tasks
from dps_ray.errors import NonFiniteError, RewardError
from dps_ray.prompts.dataset import Prompt
from dps_ray.rewards.functions import TextError, load_reward, score_response, trial_text

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


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Makes a file of this code, and loads `reward` from it."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def make(code):
        (tmp_path / "mine.py").write_text(code)
        return load_reward(f"{tmp_path / 'mine.py'}:reward")

    return make


def test_a_file_imports_its_neighbours_when_it_is_loaded_and_later(tmp_path, load):
    (tmp_path / "neighbour_of_a_reward.py").write_text("BONUS = 1.0\n")
    (tmp_path / "late_neighbour_of_a_reward.py").write_text("BONUS = 2.0\n")
    reward = load(
        "import neighbour_of_a_reward\n"
        "def reward(solution_str):\n"
        "    import late_neighbour_of_a_reward\n"
        "    return neighbour_of_a_reward.BONUS + late_neighbour_of_a_reward.BONUS\n"
    )
    assert score_response(reward, PROMPT, "a")[0] == 3.0


def test_the_folder_of_a_file_comes_after_the_standard_library_and_before_packages(tmp_path, load):
    load("def reward(solution_str): return 1.0")
    load("def reward(solution_str): return 1.0")
    assert sys.path.count(str(tmp_path)) == 1
    folder = sys.path.index(str(tmp_path))
    assert sys.path.index(sysconfig.get_path("stdlib")) < folder
    assert folder < sys.path.index(sysconfig.get_path("purelib"))


@pytest.mark.parametrize(
    "code",
    [
        "async def reward(data_source, solution_str, ground_truth, extra_info=None):\n"
        "    return float(len(solution_str))",
        "class Reward:\n"
        "    def __call__(self, data_source, solution_str, ground_truth, extra_info=None):\n"
        "        return float(len(solution_str))\n"
        "reward = Reward()",
        "class Reward:\n"
        "    async def __call__(self, solution_str, **fields):\n"
        "        return float(len(solution_str) * (len(fields) == 3))\n"
        "reward = Reward()",
        "class reward:\n"
        "    def __init__(self, scale=1.0): self.scale = scale\n"
        "    def __call__(self, solution_str, ground_truth): return len(solution_str) * self.scale",
        "import functools\n"
        "def scaled(scale, data_source, solution_str, ground_truth, extra_info=None):\n"
        "    return len(solution_str) * scale\n"
        "reward = functools.partial(scaled, 1.0)",
        "import functools\n"
        "def bound(solution_str, data_source, **fields):\n"
        "    assert data_source == 'mine' and list(fields) == ['ground_truth', 'extra_info']\n"
        "    return float(len(solution_str))\n"
        "reward = functools.partial(bound, data_source='mine')",
        "def reward(**fields): return float(len(fields['solution_str']) * (len(fields) == 4))",
        "def reward(solution_str, *, ground_truth): return float(len(solution_str))",
        "def reward(solution_str, weight=1.0): return len(solution_str) * weight",
        "class Bench:\n"
        "    def score(self, solution_str, extra_info): return float(len(solution_str))\n"
        "reward = Bench().score",
    ],
)
def test_what_can_be_called_with_the_keywords_of_verl_is_a_reward_function(load, code):
    assert score_response(load(code), PROMPT, "abc")[0] == 3.0


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def reward(prompt, response, ground_truth): return 1.0", "requires 'prompt', 'response'"),
        ("def reward(solution_str, /): return 1.0", "requires 'solution_str'"),
        ("def reward(data_source, ground_truth): return 1.0", "does not take 'solution_str'"),
        ("class reward: pass", "instances cannot be called; give it a method __call__"),
        (
            "class reward:\n"
            "    def __init__(self, judge): pass\n"
            "    def __call__(self, solution_str): return 1.0",
            "without arguments: TypeError.*judge",
        ),
    ],
)
def test_what_cannot_be_called_so_is_refused_with_what_is_wrong(load, code, said):
    with pytest.raises(RewardError, match=f"mine.py:reward.*{said}"):
        load(code)


def test_what_is_changed_in_a_row_is_not_seen_by_the_next_call():
    row = PROMPT._replace(ground_truth=["3"], extra_info={"tests": [{"left": 2}]})

    def reward(data_source, solution_str, ground_truth, extra_info):
        ground_truth.append("4")
        extra_info["tests"][0]["left"] -= 1
        return float(extra_info["tests"][0]["left"]) + len(ground_truth)

    assert [score_response(reward, row, text)[0] for text in "abc"] == [3.0, 3.0, 3.0]


def test_what_an_async_function_keeps_between_calls_is_of_the_same_event_loop():
    loops = set()

    async def reward(**fields):
        loops.add(asyncio.get_running_loop())
        return 1.0

    assert [score_response(reward, PROMPT, text)[0] for text in "ab"] == [1.0, 1.0]
    assert len(loops) == 1


def test_a_trial_text_has_the_ground_truth_in_the_formats_that_functions_look_for():
    text = trial_text(PROMPT._replace(ground_truth="7/2"))
    for part in (r"\boxed{7/2}", "<answer>7/2</answer>", "#### 7/2", "answer is 7/2"):
        assert part in text
    assert '{"target": 24}' in trial_text(PROMPT._replace(ground_truth={"target": 24}))
    assert len(trial_text(PROMPT._replace(ground_truth="9" * 10**6))) < 10_000


@pytest.mark.parametrize(
    "judge",
    [
        lambda text: int(text),
        lambda text: text.split(":")[1],
        lambda text: functools.reduce(getattr, ["group"], None),
        lambda text: {"right": None}["right"]["answer"],
        lambda text: compile(text, "", "eval"),
    ],
    ids=["ValueError", "IndexError", "AttributeError", "TypeError", "SyntaxError"],
)
def test_an_exception_that_the_text_may_have_caused_is_told_from_others(judge):
    with pytest.raises(TextError):
        score_response(lambda solution_str, **fields: judge(solution_str), PROMPT, "a b")


@pytest.mark.parametrize("error", [KeyError("x"), ImportError("x"), NameError("x"), TypeError("x")])
def test_other_exceptions_are_not_the_texts_fault(error):
    def reward(**fields):
        raise error

    with pytest.raises(RewardError) as caught:
        score_response(reward, PROMPT, "a")
    assert type(caught.value) is RewardError


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
