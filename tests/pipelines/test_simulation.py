"""The simulated learner, the commands that use it, and the partitions that only it needs."""

import json

import numpy as np
import pytest

from dps_ray import BeliefStore
from dps_ray.beliefs.states import Observation
from dps_ray.errors import ConfigError
from dps_ray.selection.methods.partitions import PartitionedHMM
from pipelines.simulate import main
from pipelines.simulation.entries import ABLATIONS, ENTRIES
from pipelines.simulation.fit import RATES, loss, measure
from pipelines.simulation.model import REAL, Student, World, simulate

POOL, STEPS, BATCH, K = 1_000, 40, 32, 8


def run(name, seed=0, **arguments):
    entry = {**ENTRIES, **ABLATIONS}[name]
    arguments = {"steps": STEPS, "batch_size": BATCH, "group_size": K, **arguments}
    return simulate(
        entry.make(POOL, K, seed),
        seed=seed,
        max_gen_batches=entry.max_gen_batches,
        rest=entry.rest,
        **arguments,
    )


# --- the learner -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["uniform", "mopps", "dps", "ds_4", "5 states"])
def test_the_same_seed_gives_the_same_figures_and_another_does_not(name):
    assert run(name) == run(name)
    assert run(name).accuracy != run(name, seed=1).accuracy


def test_the_oracle_finds_more_partial_groups_than_any_method_that_trains_on_one_batch():
    late = {name: np.mean(run(name).rolled_out[10:]) for name in ENTRIES}
    assert max(late, key=late.get) == "oracle"
    assert late["dps"] > 1.2 * late["uniform"]


def test_dynamic_sampling_pays_for_the_groups_it_discards_and_trains_on_full_batches():
    uniform, dynamic = run("uniform"), run("ds")
    assert uniform.rollouts[-1] == STEPS * BATCH * K
    assert dynamic.rollouts[-1] > 1.5 * uniform.rollouts[-1]
    assert dynamic.effective == [1.0] * STEPS
    assert max(dynamic.rolled_out) < 1
    assert np.diff(run("ds_4").rollouts).max() <= 4 * BATCH * K


def test_the_offline_filter_pays_for_its_evaluation_and_never_goes_back_to_what_it_dropped():
    filtered, uniform = run("offline_filter"), run("uniform")
    assert filtered.rollouts[-1] == uniform.rollouts[-1] + 4 * POOL
    assert filtered.distinct < 0.4 * POOL
    assert uniform.distinct == POOL
    assert np.mean(filtered.rolled_out[:5]) > 1.2 * np.mean(uniform.rolled_out[:5])


def test_an_offline_filter_that_keeps_too_few_prompts_says_so():
    with pytest.raises(ConfigError, match="simulate a larger pool"):
        run("offline_filter", batch_size=600)


def test_a_batch_used_again_teaches_less_and_a_rested_one_more_again():
    student = Student(World.of(POOL, seed=0))
    rows, rates = np.arange(BATCH), np.full(BATCH, 0.5)

    def taught():
        before = student.skill.mean()
        student.train(rows, rates)
        return student.skill.mean() - before

    first, second, third = taught(), taught(), taught()
    assert first > second > third
    for _ in range(60):
        student.train(np.arange(BATCH, 2 * BATCH), rates)
    assert taught() > second


def test_groups_near_one_half_teach_more_than_nearly_solved_ones():
    near, far = (Student(World.of(POOL, seed=0)) for _ in range(2))
    near.train(np.arange(BATCH), np.full(BATCH, 0.5))
    far.train(np.arange(BATCH), np.full(BATCH, 0.875))
    assert near.skill.mean() > far.skill.mean() > REAL.start


def test_training_on_a_prompt_helps_that_prompt_more_than_its_neighbours():
    student = Student(World.of(POOL, seed=0))
    same = np.flatnonzero(student.world.topic == student.world.topic[0])
    student.world.difficulty[same] = student.skill[0]
    student.world.discrimination[same] = 1
    student.train(same[:1], np.array([0.5]))
    after = student.success(same)
    assert after[0] > after[1] > 0.5


def test_never_and_always_solved_prompts_stay_as_they_are():
    student = Student(World.of(POOL, seed=0, hard=0.3, easy=0.2))
    student.skill += 8
    success = student.success()
    assert np.mean(success < 1e-9) == pytest.approx(0.3, abs=0.05)
    student.skill -= 16
    assert np.mean(student.success() > 1 - 1e-9) == pytest.approx(0.2, abs=0.05)


def test_a_rolled_out_prompt_rests_ten_steps_under_dps_rest():
    entry, drawn = ENTRIES["dps_rest"], []
    selector = entry.make(POOL, K, 0)
    observe = selector.observe
    selector.observe = lambda mine: (drawn.append(set(mine.ids)), observe(mine))
    simulate(selector, steps=25, batch_size=BATCH, group_size=K, rest=entry.rest)
    assert all(not drawn[i] & drawn[j] for j in range(25) for i in range(max(0, j - 10), j))
    assert any(drawn[i] & drawn[i + 11] for i in range(14))


def test_a_pool_too_small_for_the_rest_is_still_sampled_in_full_batches():
    selector = ENTRIES["dps_rest"].make(40, K, 0)
    assert simulate(selector, steps=5, batch_size=BATCH, group_size=K, rest=10).distinct == 40


def test_the_fitted_learner_starts_where_the_real_one_does_and_is_near_it_in_the_end():
    figures = measure(REAL, RATES, seeds=(0,))
    errors = [abs(figure.error) for figure in figures if figure.kind == "accuracy"]
    assert np.median(errors) < 1.5  # of 0.03
    assert loss(figures) < 100


# --- partitions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.0, 0.7, 1.0])
def test_three_states_are_the_belief_store(decay):
    ids, rng = np.arange(60), np.random.default_rng(0)
    store = BeliefStore(ids, decay=decay, seed=3)
    partitioned = PartitionedHMM(ids, seed=3, states=3, decay=decay)
    for _ in range(40):
        chosen = store.select(12).ids
        np.testing.assert_array_equal(partitioned.select(12).ids, chosen)
        right = rng.choice([0, 0, 3, 5, 8, 8], len(chosen))
        states = np.select([right == 0, right == K], [0, 2], 1)
        for selector in (store, partitioned):
            selector.observe(Observation(chosen, states, right, np.full(len(chosen), K)))
        np.testing.assert_allclose(partitioned.beliefs(ids), store.predicted(ids), atol=1e-8)


@pytest.mark.parametrize(
    ("states", "k", "expected"),
    [
        (2, 6, [0, 1, 1, 1, 1, 1, 0]),
        (3, 6, [0, 1, 1, 1, 1, 1, 2]),
        (5, 6, [0, 1, 2, 2, 2, 3, 4]),  # 1/3 and 2/3 are in the middle
        (7, 10, [0, 1, 2, 2, 3, 3, 3, 4, 4, 5, 6]),  # .2, .4, .6 and .8 are on the side nearer 1/2
    ],
)
def test_a_group_falls_into_the_state_of_its_success_rate(states, k, expected):
    successes = np.arange(k + 1, dtype=float)
    found = PartitionedHMM([0], states=states).states_of(successes, np.full(k + 1, float(k)))
    assert found.tolist() == expected


@pytest.mark.parametrize("states", [2, 5, 7])
def test_beliefs_over_any_partition_are_distributions_and_a_restored_one_goes_on(states):
    ids, rng = np.arange(50), np.random.default_rng(1)
    selector = PartitionedHMM(ids, seed=1, states=states)
    for step in range(12):
        chosen = selector.select(10).ids
        right = rng.integers(0, K + 1, 10)
        outcome = np.select([right == 0, right == K], [0, 2], 1)
        selector.observe(Observation(chosen, outcome, right, np.full(10, K)))
        if step == 5:
            before = selector.snapshot()
            selector = PartitionedHMM(ids, seed=1, states=states)
            selector.load_state(before)
    assert selector.beliefs(ids).sum(axis=1) == pytest.approx(np.ones(50))
    assert selector.beliefs(ids).min() > 0
    again = PartitionedHMM(ids, seed=1, states=states)
    again.load_state(selector.snapshot())
    np.testing.assert_array_equal(again.select(20).ids, selector.select(20).ids)


def test_a_partition_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="no partition into 4: write one of"):
        PartitionedHMM([0], states=4)


# --- the command -----------------------------------------------------------------------------------

SMALL = ["--prompts", "300", "--batch-size", "16", "--steps", "32"]


def test_the_command_prints_a_row_for_each_method_and_writes_the_figures(tmp_path, capsys):
    path = tmp_path / "figures.json"
    assert (
        main([*SMALL, "--methods", "uniform", "oracle", "--seeds", "3", "--json", str(path)]) == 0
    )
    printed = capsys.readouterr().out
    assert "uniform" in printed
    assert "oracle" in printed
    assert "±" in printed
    figures = json.loads(path.read_text())
    assert [(row["method"], row["seed"]) for row in figures] == [
        (name, seed) for name in ("uniform", "oracle") for seed in range(3)
    ]
    assert {len(row["effective"]) for row in figures} == {32}


def test_the_ablations_hold_every_setting_and_the_ceiling(tmp_path):
    path = tmp_path / "figures.json"
    assert main([*SMALL, "--ablations", "--seeds", "1", "--json", str(path)]) == 0
    names = [row["method"] for row in json.loads(path.read_text())]
    assert names == list(ABLATIONS)
    assert {"oracle", "decay 0.99", "k=16, dps", "prior local", "entropy 0.3", "7 states"} <= {
        *names
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--methods", "dsp"], "--methods dsp: write one of uniform, "),
        (["--prompts", "10"], "--prompts 10: a batch has 16 prompts"),
        (["--steps", "30"], "--steps 30: write 31 or more"),
        (["--group-size", "1"], "--group-size 1: write 2 or more"),
        (["--hard", "0.7", "--easy", "0.6"], "two shares"),
    ],
)
def test_a_wrong_option_is_named_with_what_to_write_instead(wrong, message, capsys):
    assert main([*SMALL, *wrong]) == 2
    assert message in capsys.readouterr().err
