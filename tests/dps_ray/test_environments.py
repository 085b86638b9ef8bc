"""Episodes of environments: what they may return, what is an error, and which tokens the policy wrote."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from dps_ray.config import Config, EnvironmentSettings
from dps_ray.environments.episode import Episode, NonFiniteScoreError, load_environment
from dps_ray.environments.process import EnvironmentProcess
from dps_ray.environments.protocol import Turn, outcome
from dps_ray.environments.transcript import Transcript
from dps_ray.environments.trial import EnvironmentTrial
from dps_ray.errors import ConfigError, EpisodeError, TurnError
from dps_ray.groups import Response
from dps_ray.prompts.dataset import Prompt

FILE = Path(__file__).parent / "turn_environments.py"


def named(name: str) -> str:
    return f"{FILE}:{name}"


def prompt(turns: int = 2) -> Prompt:
    return Prompt(7, [{"role": "user", "content": "count"}], "countdown", str(turns), {}, [])


def episode(name: str, **kwargs: object) -> Episode:
    return Episode(load_environment(named(name), kwargs), prompt(), seed=11)


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


# --- episodes ------------------------------------------------------------------------------------


def test_an_episode_goes_on_until_the_environment_gives_no_messages():
    found = episode("Countdown")
    assert found.reset() == Turn(user("count"))
    assert found.step("a") == Turn(user("1 left after a"), 0.5, 0.0)
    assert found.step("b") == Turn(None, 0.5, 1.0)


def test_an_environment_with_gymnasiums_methods_is_an_environment():
    found = episode("Gym")
    assert found.reset() == Turn(user("count (11)"))
    assert found.step("a") == Turn(user("you said a"), 0.25, 0.0)
    assert found.step("b") == Turn(None, 0.25, 1.0)


def test_a_reset_that_takes_a_seed_gets_it():
    assert episode("Seeded").reset() == Turn(user("seed 11"))


def test_what_an_environment_changes_in_its_prompt_no_other_episode_sees():
    given = prompt()
    for _ in range(2):
        found = Episode(load_environment(named("Countdown"), {}), given, 0)
        found.reset()
        found._environment.prompt.messages.clear()
    assert given == prompt()


@pytest.mark.parametrize(
    ("turns", "score", "accuracy"),
    [
        ([Turn(None, 0.25, 0.5), Turn(None, 0.5, 1.0), Turn(None, 0.5)], 1.25, 1.0),
        ([Turn(None, 0.5), Turn(None, 0.5)], 1.0, 1.0),
        ([Turn(None, 0.5), Turn(None, 0.25)], 0.75, 0.0),
        ([Turn(None, 2.0, 0.0)], 2.0, 0.0),
    ],
)
def test_the_score_is_the_sum_and_the_accuracy_the_last_that_was_given(turns, score, accuracy):
    assert outcome(turns) == (score, accuracy)


@pytest.mark.parametrize(
    "returned",
    [
        None,
        "text",
        ["text"],
        [[], 1.0],
        [5, 1.0],
        [[{"role": "user"}], 1.0],
        [None, "1"],
        [None, {"acc": 1.0}],
        [None, {"score": 1.0, "acc": 2.0}],
        [None, {"score": 1.0, "acc": None}],
        ["text", 1.0, True],
    ],
)
def test_a_step_that_returns_no_messages_or_no_reward_is_an_error_that_says_what_to_return(
    returned,
):
    found = episode("Returns", step=returned)
    found.reset()
    with pytest.raises(
        EpisodeError, match=r"step of the environment returned .*prompt 7.*return \("
    ):
        found.step("a")


@pytest.mark.parametrize("returned", [None, [], 3, [{"content": "x"}], ["text"]])
def test_a_reset_that_returns_no_messages_is_an_error(returned):
    with pytest.raises(EpisodeError, match="reset of the environment returned"):
        episode("Returns", reset=returned).reset()


def test_a_reward_that_is_not_finite_is_an_error_of_its_own():
    found = episode("Evil")
    found.reset()
    with pytest.raises(NonFiniteScoreError, match="nan"):
        found.step("nan")


def test_what_an_environment_raises_is_an_error_that_names_the_prompt():
    found = episode("Evil")
    found.reset()
    with pytest.raises(
        EpisodeError, match=r"step of the environment raised KeyError: 'tool' .*prompt 7"
    ):
        found.step("raise")


def test_the_example_of_the_documentation_is_an_environment(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "environments.md").read_text()
    (tmp_path / "adder.py").write_text(page.split("```python\n")[1].split("```")[0])
    given = prompt()._replace(ground_truth="5")
    make = load_environment(f"{tmp_path}/adder.py:Adder", {"penalty": 0.25})
    found = Episode(make, given, 0)
    first = found.reset().messages
    assert first is not None
    assert [message["role"] for message in first] == ["system", "user"]
    assert found.step("add(2, 3)") == Turn([{"role": "tool", "content": "5"}], -0.25)
    assert found.step("answer: 5") == Turn(None, 1.0, 1.0)


# --- names and settings --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kwargs", "said"),
    [
        ("nothing_of_this_name", {}, "no built-in environment"),
        (named("Missing"), {}, "has no Class 'Missing'"),
        (named("NoStep"), {}, "has no method step"),
        (named("Countdown"), {"size": 3}, "cannot be made with environment.kwargs="),
    ],
)
def test_what_is_no_environment_is_refused(path, kwargs, said):
    with pytest.raises(ConfigError, match=said):
        load_environment(path, kwargs)


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ({"data": {"reward": "mine.py:reward"}}, "an environment gives the rewards itself"),
        ({"rollout": {"rounds": [2, 6]}}, "not generated in rounds"),
        ({"environment": {"path": "a:B", "max_turns": 0}}, "max_turns"),
    ],
)
def test_settings_at_odds_with_an_environment_are_refused(group, said):
    with pytest.raises(ConfigError, match=said):
        Config(**{"environment": {"path": "a:B"}, **group})


# --- the process ---------------------------------------------------------------------------------


@pytest.fixture
def process():
    made = EnvironmentProcess(EnvironmentSettings(path=named("Evil"), turn_timeout=2.0), 60)
    yield made
    made.close()


def test_an_episode_in_a_process_that_was_killed_goes_on_as_if_nothing_had_happened(process):
    given = prompt(4)
    process.play("one", given, 0, [])
    before = process.play("one", given, 0, ["a"])
    assert len(before.seconds) == 1
    os.kill(process._process.popen.pid, signal.SIGKILL)
    process._process.popen.wait()
    after = process.play("one", given, 0, ["a", "b"])
    assert after.turn == Turn(user("2 left after b"), 0.5, 0.0)
    assert len(after.seconds) == 3  # reset and both steps


def test_a_call_that_is_made_twice_has_the_same_answer(process):
    process.play("one", prompt(4), 0, [])
    once, again = (process.play("one", prompt(4), 0, ["a"]).turn for _ in range(2))
    assert once == again


@pytest.mark.parametrize(
    ("response", "said"),
    [
        ("hang", r"gave no answer within 2 s \(environment.turn_timeout\)"),
        ("exit", "ended its process with status 7"),
        ("quit", "ended its process with status 3"),
    ],
)
def test_a_step_that_does_not_return_is_an_error_and_costs_no_other_episode(
    process, response, said
):
    process.play("other", prompt(4), 0, [])
    process.play("other", prompt(4), 0, ["a"])
    process.play("one", prompt(), 0, [])
    with pytest.raises(TurnError, match=said):
        process.play("one", prompt(), 0, [response])
    assert process.play("other", prompt(4), 0, ["a", "b"]).turn.messages == user("2 left after b")


def test_an_environment_is_tried_before_a_run():
    seen = []
    with EnvironmentTrial(EnvironmentSettings(path=named("Countdown")), 60) as trial:
        trial.check([prompt()], lambda first, new: seen.append((first, new)))
    assert seen[1] == (user("count"), user("1 left after ?"))


def test_an_environment_that_answers_nothing_is_refused_with_the_reason():
    settings = EnvironmentSettings(path=named("Returns"), kwargs={"step": [None, "1"]})
    with EnvironmentTrial(settings, 60) as trial, pytest.raises(EpisodeError, match="none of 3"):
        trial.check([prompt()] * 3, lambda first, new: None)


# --- tokens --------------------------------------------------------------------------------------


def response(tokens: list[int], text: str) -> Response:
    logprobs = -np.array(tokens, dtype=np.float32) / 10
    return Response(np.array(tokens, dtype=np.int32), logprobs, text, False)


def test_an_episode_is_one_response_whose_read_tokens_are_marked():
    whole = (
        Transcript()
        .wrote(response([1, 2], "one"))
        .read(np.array([3, 4, 5], dtype=np.int32), ["tool"])
        .wrote(response([6], "two"))
        .response(truncated=True)
    )
    assert whole.tokens.tolist() == [1, 2, 3, 4, 5, 6]
    assert whole.tokens.dtype == np.int32
    assert whole.logprobs.tolist() == pytest.approx([-0.1, -0.2, 0, 0, 0, -0.6])
    assert whole.written is not None
    assert whole.written.tolist() == [True, True, False, False, False, True]
    assert (whole.text, whole.truncated) == ("one\ntool\ntwo", True)
    assert (whole.turns, whole.generated) == (2, 3)
