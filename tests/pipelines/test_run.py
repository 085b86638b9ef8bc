"""Whole runs of the main job, small and real: Ray, vLLM, DeepSpeed, two of everything."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipelines.grpo_dps import main
from pipelines.run_log import read_metrics

pytestmark = pytest.mark.slow


def run(folder: Path, policy: Path, chains: tuple[Path, Path], *overrides: str) -> int:
    return main(
        [
            f"folder={folder}",
            f"model.path={policy}",
            f"data.train={chains[0]}",
            f"data.test={chains[1]}",
            "loop.batch_size=12",
            "loop.steps=3",
            "rollout.group_size=4",
            "rollout.threads=1",
            "learner.threads=1",
            "learner.lr=1e-3",
            "probe.every=0",
            "checkpoint.every=2",
            *overrides,
        ]
    )


@pytest.fixture(scope="session")
def able_policy(tmp_path_factory):
    """A tiny policy that solves some of the easiest chains some of the time."""
    from pipelines.start_policy import tiny_policy

    return tiny_policy(tmp_path_factory.mktemp("policies"), steps=150)


TWO_OF_EVERYTHING = (
    "resources.beliefs.shards=2",
    "resources.rollout.engines=2",
    "resources.learner.ranks=2",
    "resources.verifiers.workers=2",
    "learner.zero_stage=2",
    "objective.kl_coef=0.01",
    "objective.entropy_coef=0.001",
)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, able_policy, chains):
    """A run of 3 steps with two of everything, not interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert (
        run(folder, able_policy, chains, *TWO_OF_EVERYTHING, "probe.every=2", "probe.prompts=8")
        == 0
    )
    return folder


def test_a_run_leaves_metrics_summary_report_and_events(finished):
    metrics = read_metrics(finished)
    steps = [m for m in metrics if "critic/rewards/mean" in m]
    assert [m["step"] for m in steps] == [1, 2, 3]
    for m in steps:
        shares = m["batch/solve_none"] + m["tasksample/partial_solve_ratio"] + m["batch/solve_all"]
        assert shares == pytest.approx(1)
        assert sum(m[f"tasksample_hmmpred_cm/{a}{b}"] for a in "123" for b in "123") == 12
    trained = [m for m in steps if "actor/grad_norm" in m]
    assert trained
    for m in trained:
        assert m["actor/grad_norm"] > 0
        assert m["rollout/logprob_diff_mean"] < 1e-5
    # The reference is the start policy, from which the weights move away.
    assert 0 <= trained[0]["actor/kl_loss"] < trained[-1]["actor/kl_loss"]
    summary = json.loads((finished / "summary.json").read_text())
    # 3 batches of 12 x 4 and 2 probes of 8 x 4: all are charged.
    assert summary["rollouts"] == 3 * 48 + 2 * 32
    assert summary["distinct_prompts"] == sum(
        n for times, n in summary["times_sampled"].items() if times != "0"
    )
    assert 0 <= summary["accuracy_before"]["low"] <= summary["accuracy_after"]["high"] <= 1
    assert (finished / "report.html").exists()
    assert list((finished / "tensorboard").glob("events*"))
    assert {p.name for p in (finished / "logs").iterdir()} >= {"rollout-1.log", "learner-1.log"}


def test_a_checkpoint_loads_in_plain_transformers_and_differs_from_the_start(finished, able_policy):
    path = finished / "checkpoints" / "step-00000003" / "model"
    trained = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    start = AutoModelForCausalLM.from_pretrained(able_policy, dtype=torch.float32)
    moved = [
        not torch.equal(a, b) for a, b in zip(trained.parameters(), start.parameters(), strict=True)
    ]
    assert all(moved)
    assert AutoTokenizer.from_pretrained(path).chat_template


def test_a_resumed_run_equals_one_without_interruption(tmp_path, finished, able_policy, chains):
    arguments = (*TWO_OF_EVERYTHING, "probe.every=2", "probe.prompts=8")
    assert run(tmp_path / "cut", able_policy, chains, *arguments, "loop.steps=2") == 0
    assert run(tmp_path / "cut", able_policy, chains, *arguments) == 0

    def last_step(folder):
        metrics = [m for m in read_metrics(folder) if m["step"] == 3 and "training/step" in m]
        return {
            k: v for k, v in metrics[0].items() if not k.startswith(("time", "timing", "perf/thr"))
        }

    whole, cut = last_step(finished), last_step(tmp_path / "cut")
    assert whole == pytest.approx(cut, rel=1e-4, abs=1e-6)
    for shard in range(2):
        name = f"checkpoints/step-00000003/beliefs/beliefs-{shard:05}-of-00002.npz"
        with np.load(finished / name) as a, np.load(tmp_path / "cut" / name) as b:
            assert all(np.array_equal(a[key], b[key], equal_nan=True) for key in a.files)
    models = [
        AutoModelForCausalLM.from_pretrained(
            f / "checkpoints/step-00000003/model", dtype=torch.float32
        )
        for f in (finished, tmp_path / "cut")
    ]
    for a, b in zip(*(m.parameters() for m in models), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_a_finished_run_is_not_run_again_and_other_settings_are_refused(
    finished, able_policy, chains, capsys
):
    before = (finished / "metrics.jsonl").read_bytes()
    arguments = (*TWO_OF_EVERYTHING, "probe.every=2", "probe.prompts=8")
    assert run(finished, able_policy, chains, *arguments) == 0
    assert "is finished" in capsys.readouterr().out
    assert run(finished, able_policy, chains, *arguments, "learner.lr=1e-4") == 2
    assert "learner.lr" in capsys.readouterr().err
    assert run(finished, able_policy, chains, *arguments, "resume=never") == 2
    assert "holds a run already" in capsys.readouterr().err
    assert (finished / "metrics.jsonl").read_bytes() == before


def test_dynamic_sampling_refills_until_the_batch_is_partial_and_charges_all_of_it(
    tmp_path, able_policy, chains
):
    assert (
        run(
            tmp_path / "ds",
            able_policy,
            chains,
            "method=uniform",
            "loop.filter_groups=true",
            "loop.max_gen_batches=4",
            "loop.steps=2",
        )
        == 0
    )
    steps = [m for m in read_metrics(tmp_path / "ds") if "critic/rewards/mean" in m]
    charged = np.diff([0, *(m["perf/total_rollouts"] for m in steps)])
    assert (charged > 48).all()  # refilled
    assert (charged <= 4 * 48).all()  # and no more than allowed
    for m, rollouts in zip(steps, charged, strict=True):
        partial = round(m["tasksample/partial_solve_ratio"] * rollouts / 4)
        assert m["batch/useful_groups"] == min(partial, 12)


REWARD = """
calls = 0

def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    global calls
    calls += 1
    if {fails}:
        raise ZeroDivisionError("on purpose")
    return float(solution_str == ground_truth)
"""


def test_a_reward_function_that_fails_on_some_prompts_skips_and_counts_them(
    tmp_path, able_policy, chains, capsys
):
    (tmp_path / "reward.py").write_text(REWARD.format(fails="len(ground_truth) > 30"))
    folder = tmp_path / "run"
    reward = f"data.reward={tmp_path / 'reward.py'}:compute_score"
    assert run(folder, able_policy, chains, reward, "loop.steps=2", "loop.batch_size=24") == 0
    steps = [m for m in read_metrics(folder) if "critic/rewards/mean" in m]
    assert sum(m["rollouts/skipped"] for m in steps) > 0
    assert "ZeroDivisionError: on purpose" in capsys.readouterr().out
    # A failed group is neither an answer nor an observation.
    summary = json.loads((folder / "summary.json").read_text())
    observed = sum(int(t) * n for t, n in summary["times_sampled"].items())
    assert observed == 48 - sum(m["rollouts/skipped"] for m in steps)


def test_a_reward_function_that_fails_for_good_stops_the_run_and_loses_no_step(
    tmp_path, able_policy, chains, capsys
):
    (tmp_path / "reward.py").write_text(REWARD.format(fails="calls > 48"))  # from step 2 on
    reward = f"data.reward={tmp_path / 'reward.py'}:compute_score"
    assert run(tmp_path / "run", able_policy, chains, reward, "data.test=null") == 2
    said = capsys.readouterr().err
    assert "all 12 groups failed" in said
    assert "ZeroDivisionError: on purpose" in said
    assert (tmp_path / "run/checkpoints/step-00000001/model/config.json").exists()
