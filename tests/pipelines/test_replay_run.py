"""A run with the belief as baseline that trains again on groups of the steps before."""

import pytest

from pipelines.monitoring.run_log import read_metrics
from tests.runs import assert_same_end, run

pytestmark = pytest.mark.slow

SETTINGS = ("objective.baseline=belief", "loop.replay={steps: 2, share: 0.5}")


def test_a_run_continued_from_a_checkpoint_trains_again_on_the_same_groups(
    tmp_path, able_policy, chains
):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(whole, able_policy, chains, *SETTINGS, "loop.steps=4") == 0
    for steps in (2, 4):
        assert run(parts, able_policy, chains, *SETTINGS, f"loop.steps={steps}") == 0
    assert_same_end(whole, parts)
    steps = [m for m in read_metrics(whole) if "training/step" in m]
    again = [m.get("replay/groups", 0) for m in steps]
    assert again[0] == 0
    assert sum(again) > 0
    for m in steps:
        assert m.get("replay/groups", 0) <= m["batch/useful_groups"]
        assert m.get("replay/age_max", 0) <= 2
        assert m["rollout/group_size_mean"] == 4
        # All alike is no reason not to train, where the belief was unsure.
        assert m["batch/useful_groups"] / 12 >= m["tasksample/partial_solve_ratio"] - 1e-9
    assert any(m["batch/useful_groups"] / 12 > m["tasksample/partial_solve_ratio"] for m in steps)
    last = steps[-1]
    partial = sum(m["tasksample/partial_solve_ratio"] * 12 for m in steps)
    assert last["rollout/rollouts_per_mixed_group"] == pytest.approx(4 * 48 / partial)


def test_rounds_replay_and_the_belief_as_baseline_go_together_across_a_restart(
    tmp_path, able_policy, chains
):
    everything = (*SETTINGS, "rollout.rounds=[2,2]", "objective.train_on=partial")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(whole, able_policy, chains, *everything) == 0
    assert run(parts, able_policy, chains, *everything, "loop.steps=2") == 0
    assert run(parts, able_policy, chains, *everything, "resources.beliefs.shards=3") == 0
    assert_same_end(whole, parts)
    sizes = [m["rollout/group_size_mean"] for m in read_metrics(whole) if "training/step" in m]
    assert all(2 <= size <= 4 for size in sizes)
    assert min(sizes) < 4
