"""The user's own environment in examples/."""

import re
from pathlib import Path

from dps_ray.config import settings
from dps_ray.environments.episode import Episode, load_environment
from dps_ray.environments.protocol import outcome
from dps_ray.prompts.dataset import Prompt

FILE = Path("examples/own_environment.py")
CHAIN = "6+6=2,2*4=8;"
PROMPT = Prompt(1, [{"role": "user", "content": "6+6*4="}], "arithmetic", CHAIN, {}, [])


def played(*responses):
    episode = Episode(load_environment(f"{FILE.absolute()}:SecondTry", {"worth": 0.25}), PROMPT, 0)
    episode.reset()
    return [episode.step(response) for response in responses]


def test_a_chain_that_is_right_at_once_scores_1():
    turns = played(CHAIN)
    assert turns[-1].messages is None
    assert outcome(turns) == (1.0, 1.0)


def test_the_second_try_follows_a_hint_and_is_worth_less():
    turns = played("6+6=2,2*4=6;", CHAIN)
    assert turns[0].messages == [{"role": "user", "content": "?1;"}]
    assert turns[-1].messages is None
    assert outcome(turns) == (0.25, 1.0)


def test_two_wrong_tries_score_0():
    assert outcome(played("", "6+6=3;")) == (0.0, 0.0)


def test_the_command_in_the_file_is_a_valid_configuration():
    (command,) = re.findall(r"--config arithmetic (.*?)\n\"\"\"", FILE.read_text(), re.S)
    file = Path("dps_ray/configs/arithmetic.yaml")
    config = settings.load(file, command.replace("\\\n", "").split())
    assert config.environment.max_turns == 2
