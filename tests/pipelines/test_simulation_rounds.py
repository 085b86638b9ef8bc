"""Rules for rounds, by arithmetic and with the simulated learner."""

import numpy as np
import pytest

from dps_ray.beliefs.beta_rates import group_states
from dps_ray.selection.adaptive_rounds import ROUND, plan
from dps_ray.selection.rounds import RoundRule
from pipelines.simulation.entries import ENTRIES
from pipelines.simulation.model import Student, World, simulate
from pipelines.simulation.rounds import (
    PUBLISHED,
    RULES,
    SAMPLINGS,
    expected,
    main,
    sampled,
    simulated,
)
from tests.dps_ray.test_rounds import BELIEFS, rates

A = 0.354


def mixed(size, a=A, b=A):
    return group_states(np.array([a]), np.array([b]), size)[0, 1]


M2, M4, M6, M8 = map(mixed, (2, 4, 6, 8))


@pytest.mark.parametrize(
    ("rule", "rollouts"),
    [
        ("k = 8", 8 / M8),
        ("4, 4: give up if all are equal", 4 / M4 + 4),
        ("4, 4: stop when mixed", (4 + 4 * (1 - M4)) / M8),
        ("2, 2, 2, 2: stop when mixed", 2 * (4 - M2 - M4 - M6) / M8),
        ("k = 4", 4 / M4),
        ("2, 2: stop when mixed", (2 + 2 * (1 - M2)) / M4),
        ("k = 2", 2 / M2),
    ],
)
def test_rollouts_for_a_mixed_group_are_those_of_the_formula(rule, rollouts):
    found = expected(RULES[rule], A, A)
    assert found.responses / found.mixed == pytest.approx(rollouts, rel=1e-12)


@pytest.mark.parametrize(("a", "b"), BELIEFS)
def test_a_plan_for_adaptive_rounds_expects_what_comes_of_it(a, b):
    found, planned = expected(RULES["adaptive, up to 8"], a, b), plan(rates((a, b)), 8)
    assert found.signal == pytest.approx(planned.signal[0], rel=1e-9)
    cost = found.responses + ROUND * (found.rounds - 1)
    assert cost == pytest.approx(planned.cost[0], rel=1e-9)


@pytest.mark.parametrize(("a", "b"), BELIEFS)
def test_adaptive_rounds_cost_no_more_for_their_signal_than_any_rule_that_stops_when_mixed(a, b):
    def ratio(found):
        return found.signal / (found.responses + ROUND * (found.rounds - 1))

    best = ratio(expected(RULES["adaptive, up to 8"], a, b))
    others = [rule for rule in RULES.values() if rule.stop == "mixed"]
    assert all(ratio(expected(rule, a, b)) <= best * (1 + 1e-9) for rule in others)


def late_cost(outcome):
    half = len(outcome.rollouts) // 2
    groups = outcome.trained[-1] - outcome.trained[half]
    return (outcome.rollouts[-1] - outcome.rollouts[half]) / groups


def test_the_simulator_orders_rules_as_the_arithmetic_does():
    costs = {
        name: np.mean([late_cost(simulated(RULES[name], 16, 5_000, seed)) for seed in range(2)])
        for name in ("k = 8", "4, 4: stop when mixed", "2, 2, 2, 2: stop when mixed", "k = 4")
    }
    assert list(costs) == sorted(costs, key=costs.__getitem__, reverse=True)


def test_dynamic_sampling_pays_less_for_a_mixed_group_the_less_it_wastes():
    costs = {
        name: np.mean([late_cost(sampled(rule, 16, 25, seed, refill)) for seed in range(2)])
        for name, (rule, refill) in SAMPLINGS.items()
    }
    assert list(costs) == sorted(costs, key=costs.__getitem__, reverse=True)
    pooled = late_cost(simulated(RULES["k = 8"], 16, 5_000, 0))
    assert pooled < 0.8 * costs[PUBLISHED]


def run(**how):
    selector = ENTRIES["dps_counts"].make(500, 8, 0)
    return simulate(selector, steps=20, **{"batch_size": 16, **how})


def test_one_round_is_no_rounds():
    assert run(rounds=RoundRule((8,), "mixed", 0.0, 8)) == run()


def test_rounds_that_stop_when_mixed_spend_less_and_find_as_many_mixed_groups():
    whole, rounds = run(), run(rounds=RULES["2, 2, 2, 2: stop when mixed"])
    assert rounds.rollouts[-1] < 0.8 * whole.rollouts[-1]
    assert rounds.trained[-1] > 0.9 * whole.trained[-1]


def test_a_method_that_predicts_nothing_can_have_rounds():
    selector = ENTRIES["uniform"].make(500, 8, 0)
    found = simulate(selector, steps=5, batch_size=16, rounds=RULES["adaptive, up to 8"])
    assert 2 * 16 * 5 <= found.rollouts[-1] < 8 * 16 * 5


def test_a_refill_by_missing_groups_fills_the_batch_for_fewer_rollouts():
    whole, missing = (
        simulate(
            ENTRIES["uniform"].make(2_000, 8, 0),
            steps=20,
            batch_size=16,
            max_gen_batches=50,
            refill=refill,
        )
        for refill in ("batch", "missing")
    )
    assert missing.effective == whole.effective == [1.0] * 20
    assert missing.rollouts[-1] < whole.rollouts[-1]


def test_a_refill_by_missing_groups_ends_at_its_limit():
    selector = ENTRIES["uniform"].make(2_000, 8, 0)
    found = simulate(
        selector, steps=5, batch_size=16, max_gen_batches=2, refill="missing", hard=1.0
    )
    assert found.rollouts == [2 * 16 * 8 * step for step in range(1, 6)]
    assert found.trained[-1] == 0


def test_a_run_ends_once_so_many_responses_were_generated():
    assert run(rollouts=5 * 16 * 8).rollouts[-1] == 5 * 16 * 8


def test_a_smaller_group_teaches_less_than_a_larger_one_with_the_same_share():
    students = [Student(World.of(200, seed=0)) for _ in range(3)]
    for student, size in zip(students, (2, 4, 8), strict=True):
        student.train(np.arange(16), np.full(16, 0.5), np.full(16, size))
    skills = [student.skill.mean() for student in students]
    assert skills == sorted(skills)


def test_the_command_prints_the_arithmetic_and_the_simulation(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["--seeds", "1", "--rollouts", "2560"]) == 0
    printed = capsys.readouterr().out
    assert "By arithmetic" in printed
    assert "Simulated" in printed
    assert printed.count("adaptive, up to 8") == 2
    (published,) = [line for line in printed.splitlines() if PUBLISHED in line]
    assert "100%" in published


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["--belief", "0", "1"], "write two numbers > 0"),
        (["--belief", "nan", "1"], "write two numbers > 0"),
        (["--seeds", "-1"], "--seeds -1: write 0 or more"),
        (["--rollouts", "100"], "--rollouts 100: write 2560 or more"),
    ],
)
def test_a_wrong_option_is_named_with_what_to_write_instead(wrong, says, capsys):
    assert main(wrong) == 2
    assert says in capsys.readouterr().err
