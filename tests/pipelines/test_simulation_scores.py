"""Objectives other than GRPO on the simulated learner, and the command that compares scores with them."""

from itertools import product

import numpy as np
import pytest

from pipelines.simulation.entries import pooled, selector
from pipelines.simulation.model import REAL, Student, World, simulate
from pipelines.simulation.objectives import Lesson, lesson
from pipelines.simulation.scores import main

RATES = np.array([0.05, 0.3, 0.5, 0.9])
SIZE = 4


def expected(objective, critic=0.0):
    """Mean signal and noise of the groups of prompts with these rates, one prompt a batch, over all their outcomes."""
    total = np.zeros((2, len(RATES)))
    for place, rate in enumerate(RATES):
        for group in product([0, 1], repeat=SIZE):
            right = np.array([sum(group)])
            chance = rate ** right[0] * (1 - rate) ** (SIZE - right[0])
            found = lesson(objective, right, np.array([SIZE]), np.array([rate]), np.array([critic]))
            total[:, place] += chance * np.concatenate(found)
    return Lesson(*total)


def test_against_a_critic_the_signal_is_the_variance_of_a_response_and_the_noise_grows_with_its_error():
    for critic in (0.0, 0.4, 1.0):
        found = expected("ppo", critic)
        variance = RATES * (1 - RATES)
        assert found.signal == pytest.approx(4 * variance)
        assert found.noise == pytest.approx(4 * (variance + (RATES - critic) ** 2))


def test_against_the_groups_own_mean_both_are_the_variance_in_the_group():
    found = expected("rloo")
    assert found.signal == pytest.approx(4 * RATES * (1 - RATES) * (SIZE - 1) / SIZE)
    assert found.noise == pytest.approx(found.signal)


def test_against_the_batch_groups_all_alike_teach_and_the_mean_is_that_of_all_groups():
    right, size = np.array([0, 4, 2]), np.full(3, 4)
    found = lesson("reinforce_plus_plus", right, size, np.array([0.5, 0.5, 0.5]), np.zeros(3))
    assert found.noise == pytest.approx([1, 1, 1])  # (1 - 1/2)^2 of each response
    assert found.signal == pytest.approx([1, 1, 1])
    none = lesson("rloo", right, size, np.array([0.5, 0.5, 0.5]), np.zeros(3))
    assert none.noise.tolist() == [0, 0, 1]


def test_grpo_teaches_as_the_learner_was_fitted():
    rates = np.linspace(0.125, 0.875, 7)
    fitted, told = (Student(World.of(200, seed=0)) for _ in range(2))
    fitted.train(np.arange(7), rates)
    right = np.arange(1, 8)
    told.learn(np.arange(7), lesson("grpo", right, np.full(7, 8), rates, rates))
    np.testing.assert_array_equal(fitted.skill, told.skill)


def test_noise_that_teaches_nothing_slows_the_learner():
    quiet, noisy = (Student(World.of(200, seed=0)) for _ in range(2))
    rows, signal = np.arange(16), np.full(16, 0.5)
    quiet.learn(rows, Lesson(signal, signal))
    noisy.learn(rows, Lesson(signal, 4 * signal))
    assert quiet.skill.mean() > noisy.skill.mean() > REAL.start


def test_drawing_by_squared_advantages_against_the_batch_teaches_less_than_by_p_partial():
    """The measurement behind the default: docs/method.md, "By objective"."""

    def accuracy(make):
        return np.mean(
            [
                simulate(
                    make(2_000, 8, seed),
                    steps=40,
                    batch_size=16,
                    seed=seed,
                    constants=REAL._replace(rate=0.16),
                    objective="reinforce_plus_plus",
                ).accuracy[-1]
                for seed in range(2)
            ]
        )

    partial, batch = (accuracy(pooled("topics", score=score)) for score in ("partial", "batch"))
    assert partial > batch + 0.03
    assert partial > accuracy(selector("uniform")) + 0.03


def test_the_command_prints_a_row_for_each_selector_and_objective(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    small = ["--seeds", "2", "--prompts", "200", "--batch-size", "8", "--steps", "3"]
    assert main(small) == 0
    printed = capsys.readouterr().out
    for objective in ("grpo", "rloo", "reinforce_plus_plus", "ppo"):
        rows = [line for line in printed.splitlines() if f" {objective} " in line]
        assert len(rows) == 5
        assert sum("uniform" in row for row in rows) == 1
        assert all(row.count("±") == 3 for row in rows if "uniform" not in row)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["--seeds", "1"], "--seeds 1: write 2 or more"),
        (["--batch-size", "0"], "--batch-size 0: write 1 or more"),
        (["--prompts", "8"], "--prompts 8: a batch has 16 prompts"),
        (["--rate", "0"], "--rate 0.0: write a positive number"),
    ],
)
def test_a_wrong_option_is_named_with_what_to_write(wrong, says, capsys):
    assert main(wrong) == 2
    assert says in " ".join(capsys.readouterr().err.split())
