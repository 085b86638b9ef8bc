"""What the start policies of the built-in environments learn from: prompts, and episodes with deliberate errors."""

import random
from collections import Counter
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from dps_ray.config import settings
from dps_ray.environments.episode import Episode, load_environment
from dps_ray.prompts.dataset import PromptTable
from pipelines.data import builtin
from pipelines.data.demonstrations import TASKS, Part, demonstration, prompt_of
from pipelines.data.playing import success_rates
from pipelines.data.policy_recipe import EOS, RECIPES, VOCABULARY
from pipelines.data.prepare import calculator, guess_the_number
from pipelines.data.start_policy import tiny_policy
from pipelines.data.warm_start import encode, tokens_and_targets

CONFIGS = Path("dps_ray/configs")
GAMES = ["calculator", "guess_the_number"]


def accuracy(task, level, episodes=300):
    """How often the player with errors is right."""
    rng, make = random.Random(0), load_environment(task, {})
    right = 0.0
    for _ in range(episodes):
        row = TASKS[task].make_row(level, rng)
        episode = Episode(make, prompt_of(row), seed=0)
        player = TASKS[task].play(episode.reset().messages[0]["content"], rng)
        turn = episode.step(next(player))
        while turn.messages is not None:
            turn = episode.step(player.send(turn.messages[0]["content"]))
        right += turn.accuracy
    return right / episodes


@pytest.mark.parametrize(
    ("expression", "value"),
    [("8", 8), ("3+4*5", 23), ("3*4+5", 17), ("9-2-3", 4), ("2-3*4*5", -58), ("2*3-4*5", -14)],
)
def test_products_come_before_sums_and_sums_go_from_left_to_right(expression, value):
    assert calculator.value(expression) == value


def test_every_expression_has_the_value_that_python_gives_it():
    rng = random.Random(0)
    for level in calculator.LEVELS * 20:
        expression = calculator.make_expression(level, rng)
        assert calculator.value(expression) == eval(expression)


def test_every_secret_number_is_in_its_range():
    rng = random.Random(0)
    for level in guess_the_number.LEVELS * 20:
        row = guess_the_number.random_row(level, rng)
        low, high, guesses = guess_the_number.read(row["prompt"][0]["content"])
        assert level.smallest <= high - low + 1 <= level.largest
        assert guesses == level.guesses
        truth = prompt_of(row).ground_truth
        assert low <= int(truth.split()[1].rstrip(",")) <= high


@pytest.mark.parametrize("task", GAMES)
def test_data_takes_all_levels_as_evenly_as_they_have_prompts(task, tmp_path):
    make = {"calculator": builtin.ensure_calculator}.get(task, builtin.ensure_guess_the_number)
    table = PromptTable.open(make(tmp_path)[1])
    levels = Counter(prompt.extra_info["level"] for prompt in table.rows(table.ids))
    assert set(levels) == {str(level) for level in TASKS[task].levels}
    assert max(levels.values()) - min(levels.values()) <= 1


@pytest.mark.parametrize("task", GAMES)
def test_everything_in_a_demonstration_is_in_the_vocabulary_and_turns_are_short(task):
    rng = random.Random(0)
    for level in TASKS[task].levels * 20:
        parts = demonstration(task, level, rng)
        assert [part.written for part in parts] == [False, True] * (len(parts) // 2)
        assert {character for part in parts for character in part.text} <= VOCABULARY.keys()
        assert max(len(part.text) for part in parts) <= 12
        assert len(parts) <= 2 * 6


def test_without_slips_the_calculators_player_is_always_right(monkeypatch):
    monkeypatch.setattr("pipelines.data.demonstrations.SLIP_IN_ORDER", {"+": 0.0, "-": 0.0})
    assert [accuracy("calculator", level, 20) for level in calculator.LEVELS] == [1.0] * 14


def test_players_are_right_where_order_does_not_matter_and_mostly_wrong_where_it_does():
    assert accuracy("calculator", "*+") == 1.0
    assert accuracy("calculator", "+*") == pytest.approx(0.4, abs=0.1)
    assert accuracy("calculator", "-*") == pytest.approx(0.15, abs=0.1)


def test_without_slips_the_player_that_guesses_halves_what_is_left(monkeypatch):
    monkeypatch.setattr("pipelines.data.demonstrations.SLIP_OF_MEMORY", 0.0)
    *enough, too_few = guess_the_number.LEVELS
    assert [accuracy("guess_the_number", level, 50) for level in enough] == [1.0] * len(enough)
    assert accuracy("guess_the_number", too_few, 50) < 0.9


def test_guesses_that_forget_find_some_of_the_numbers():
    for level in guess_the_number.LEVELS:
        assert 0.15 < accuracy("guess_the_number", level) < 0.95


def test_the_loss_is_on_what_the_policy_writes_and_on_the_end_of_each_turn():
    parts = [Part("3+4?", False), Part("3+4", True), Part("7;", False), Part("=7", True)]
    tokens, targets = tokens_and_targets(parts)
    assert tokens == [*encode("3+4?3+4"), EOS, *encode("7;=7"), EOS]
    given, none = [-100] * 4, [-100] * 2
    assert targets == [*given, *encode("3+4"), EOS, *none, *encode("=7"), EOS]


def test_the_same_seed_makes_the_same_demonstrations():
    for task, described in TASKS.items():
        level = described.levels[-1]
        one, same, other = (demonstration(task, level, random.Random(seed)) for seed in (1, 1, 2))
        assert one == same
        assert one != other


@pytest.mark.parametrize("task", GAMES)
def test_the_shipped_configuration_uses_the_environments_data_and_policy(task):
    config = settings.load(CONFIGS / f"{task}.yaml")
    assert config.environment.path == task
    assert config.data.train == config.data.test == f"builtin:{task}"
    assert RECIPES[config.model.path].task == task
    rng = random.Random(0)
    for level in TASKS[task].levels * 20:
        parts = demonstration(task, level, rng)
        assert len(parts) <= 2 * config.environment.max_turns
        assert len(parts[0].text) <= config.data.max_prompt_length
        assert len(tokens_and_targets(parts[1:])[0]) <= config.rollout.max_response_length


def test_start_policies_of_different_tasks_have_different_folders():
    assert len({recipe.folder_name() for recipe in RECIPES.values()}) == len(RECIPES)


def test_success_rates_are_those_of_prompts(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_policy(tmp_path))
    for task, described in TASKS.items():
        rates = success_rates(model, task, described.levels[0], 2, 3, random.Random(0))
        assert rates.shape == (2,)
        assert ((rates >= 0) & (rates <= 1)).all()
