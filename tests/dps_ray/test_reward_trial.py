"""Which reward functions are refused before a run, by calling them on real rows."""

from collections.abc import Iterator

import pytest

from dps_ray.config import VerifierSettings
from dps_ray.errors import ResponseError, RewardError
from dps_ray.prompts.dataset import Prompt
from dps_ray.rewards.trial import RewardTrial

# The data source says what the function does.
REWARDS = """
import json, os, re

def reward(data_source, solution_str, ground_truth, extra_info):
    return globals()[data_source](solution_str, ground_truth, extra_info)

def equal(text, truth, info):
    return float(text == truth)

def nothing(text, truth, info):
    return None

def words(text, truth, info):
    return "right"

def keys(text, truth, info):
    return float(info["no such key"])

def library(text, truth, info):
    import no_such_library

def misspelt(text, truth, info):
    return flaot(text)

def generator(text, truth, info):
    yield 1.0

def number(text, truth, info):
    return float(int(text) == int(truth))

def boxed(text, truth, info):
    return float(re.search(r"\\\\boxed{(.*)}", text).group(1) == truth)

def json_only(text, truth, info):
    return float(json.loads(text)["answer"] == truth)

def second_row(text, truth, info):
    return 1.0 / (truth != "1")

def leave(text, truth, info):
    if os.path.exists(truth):
        os._exit(3)
    open(truth, "w").close()
    return 1.0
"""


def rows(source: str) -> list[Prompt]:
    return [Prompt(i, [], source, str(i), {"level": i}, []) for i in (1, 2, 3)]


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def trial(tmp_path_factory, told) -> Iterator[RewardTrial]:
    file = tmp_path_factory.mktemp("rewards") / "mine.py"
    file.write_text(REWARDS)
    with RewardTrial(f"{file}:reward", VerifierSettings(), 60, told.append) as made:
        yield made


@pytest.mark.parametrize("source", ["equal", "number", "boxed", "second_row"])
def test_a_function_that_scores_the_ground_truth_of_a_row_in_some_format_works(trial, told, source):
    trial.check(rows(source))
    assert told == []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nothing", "returned None"),
        ("words", "returned 'right'"),
        ("generator", "returned <generator"),
        ("keys", "raised KeyError: 'no such key'"),
        ("library", "raised ModuleNotFoundError: No module named 'no_such_library'"),
        ("misspelt", "raised NameError: name 'flaot'"),
    ],
)
def test_a_function_that_fails_whatever_the_text_is_refused_with_prompt_and_what_to_return(
    trial, source, said
):
    with pytest.raises(RewardError, match=rf"none of 6 .*{said}.*prompt 1.*return a number"):
        trial.check(rows(source))


def test_a_function_that_raises_what_the_texts_may_have_caused_is_left_to_the_run(trial, told):
    trial.check(rows("json_only"))
    assert "may be due to their texts" in told.pop()


def test_a_function_that_does_not_return_is_refused_at_once(trial, tmp_path):
    """The first call, which is for imports, returns."""
    prompt = Prompt(1, [], "leave", str(tmp_path / "called"), {}, [])
    with pytest.raises(ResponseError, match=r"ended its process with status 3.*prompt 1"):
        trial.check([prompt])


def test_prompts_are_asked_for_until_one_is_scored(trial):
    asked = []

    def prompts():
        for prompt in rows("second_row"):
            asked.append(prompt.id)
            yield prompt

    trial.check(prompts())
    assert asked == [1, 2]


def test_built_in_tasks_are_refused_for_data_that_they_do_not_know():
    with RewardTrial(None, VerifierSettings(), 60, print) as built_in:
        built_in.check([Prompt(1, [], "math", r"\frac{1}{2}", {}, [])])
        with pytest.raises(RewardError, match="'riddles', prompt 1: no built-in reward for"):
            built_in.check(rows("riddles"))
        with pytest.raises(RewardError, match="sums needs a ground truth such as"):
            built_in.check([Prompt(1, [], "sums", "many", {}, [])])


def test_a_function_that_cannot_be_loaded_is_refused(tmp_path):
    with pytest.raises(RewardError, match="no reward file"):
        RewardTrial(f"{tmp_path}/mine.py:reward", VerifierSettings(), 60, print)
