"""Whole runs of the main job, small and real: Ray, vLLM, DeepSpeed, two of everything."""

import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dps_ray import PARTIAL, BeliefStore
from dps_ray.durable import Storage, committed, load, manifests, reshard
from dps_ray.prompts.dataset import PromptTable
from dps_ray.selection.pooled import PooledStore, number_within
from pipelines.comparison.replay import read_probes
from pipelines.monitoring.run_log import read_metrics
from pipelines.training.checkpoint import model_folder
from tests.faults.beliefs_run import beliefs_in
from tests.runs import TWO_OF_EVERYTHING, newest, run

pytestmark = pytest.mark.slow


def test_a_run_leaves_metrics_summary_report_and_events(finished):
    metrics = read_metrics(finished)
    steps = [m for m in metrics if "critic/rewards/mean" in m]
    assert [m["step"] for m in steps] == [1, 2, 3]
    for m in steps:
        shares = m["batch/solve_none"] + m["tasksample/partial_solve_ratio"] + m["batch/solve_all"]
        assert shares == pytest.approx(1)
        assert sum(m[f"tasksample_hmmpred_cm/{a}{b}"] for a in "123" for b in "123") == 12
    trained = [m for m in steps if "actor/grad_norm" in m]
    assert len(trained) > 1
    for m in trained:
        assert m["actor/grad_norm"] > 0
        assert m["rollout/logprob_diff_mean"] < 1e-5
    # The reference is the start policy, from which the first step moves the weights away.
    assert trained[0]["actor/kl_loss"] >= 0
    assert all(m["actor/kl_loss"] > 0 for m in trained[1:])
    summary = json.loads((finished / "summary.json").read_text())
    # 3 batches of 12 x 4 and 2 probes of 8 x 4: all are charged.
    assert summary["rollouts"] == 3 * 48 + 2 * 32
    assert summary["distinct_prompts"] == sum(
        n for times, n in summary["times_sampled"].items() if times != "0"
    )
    assert 0 <= summary["accuracy_before"]["low"] <= summary["accuracy_after"]["high"] <= 1
    evaluated = {m["step"]: m["val-core/all/acc/mean@4"] for m in metrics if "val-aux/failed" in m}
    assert summary["best"]["accuracy"] == max(evaluated.values())
    assert evaluated[summary["best"]["step"]] == summary["best"]["accuracy"]
    assert Path(summary["best"]["model"], "config.json").exists()
    assert (finished / "report.html").exists()
    assert list((finished / "tensorboard").glob("events*"))
    assert {p.name for p in (finished / "logs").iterdir()} >= {"rollout-1.log", "learner-1.log"}


def test_a_checkpoint_loads_in_plain_transformers_and_differs_from_the_start(finished, able_policy):
    path = model_folder(*newest(finished))
    trained = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    start = AutoModelForCausalLM.from_pretrained(able_policy, dtype=torch.float32)
    moved = [
        not torch.equal(a, b) for a, b in zip(trained.parameters(), start.parameters(), strict=True)
    ]
    assert all(moved)
    assert AutoTokenizer.from_pretrained(path).chat_template


def assert_beliefs_equal_a_replay(folder, store):
    """The shards' beliefs in the run's checkpoint are those of this new store, told what the run observed."""
    storage, manifest = newest(folder)
    for _, observation in committed(storage, manifest):
        store.observe(observation)
    (expected,), found = reshard([store.snapshot()], 1), beliefs_in(storage, manifest)
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_the_beliefs_of_a_run_equal_a_replay_of_its_log_through_one_store(finished, chains):
    store = BeliefStore(PromptTable.open(chains[0], None).ids, decay=0.7)
    assert_beliefs_equal_a_replay(finished, store)


def test_pooled_beliefs_of_a_run_equal_a_replay_of_its_log_through_one_store(
    tmp_path, able_policy, chains
):
    pooled = ("method=dps_pooled", "resources.beliefs.shards=2", "selector.temperature=0.5")
    assert run(tmp_path, able_policy, chains, *pooled) == 0
    table = PromptTable.open(chains[0], None)
    clusters = number_within(table.ids, table.labels("extra_info.level").labels, 0)
    store = PooledStore(table.ids, clusters, observation="counts", group_size=4, temperature=0.5)
    assert_beliefs_equal_a_replay(tmp_path, store)


def test_probes_are_recorded_with_the_prompts_they_drew(finished):
    probes = read_probes(finished)
    assert list(probes) == [1, 2]
    assert all(len(found.ids) == 8 for found in probes.values())


def test_a_finished_run_is_not_run_again_and_other_settings_are_refused(
    finished, able_policy, chains, capsys
):
    before = (finished / "metrics.jsonl").read_bytes()
    arguments = TWO_OF_EVERYTHING
    assert run(finished, able_policy, chains, *arguments) == 0
    assert "is finished" in capsys.readouterr().out
    assert run(finished, able_policy, chains, *arguments, "learner.lr=1e-3") == 2
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
        assert m["batch/useful_groups"] == partial
        # It is refilled by the groups that are missing, so none is left over.
        assert partial == 12 or (partial < 12 and rollouts == 4 * 48)


def test_dynamic_sampling_as_published_refills_by_batches_and_observes_the_groups_left_over(
    tmp_path, able_policy, chains
):
    sampling = ("method=uniform", "loop.filter_groups=true", "loop.refill=batch")
    few = ("loop.max_gen_batches=4", "loop.steps=2")
    assert run(tmp_path, able_policy, chains, *sampling, *few) == 0
    steps = [m for m in read_metrics(tmp_path) if "critic/rewards/mean" in m]
    charged = np.diff([0, *(m["perf/total_rollouts"] for m in steps)])
    observed = dict(committed(*newest(tmp_path))).values()
    for m, rollouts, found in zip(steps, charged, observed, strict=True):
        assert rollouts in (2 * 48, 3 * 48, 4 * 48)
        assert len(found.ids) == rollouts / 4
        partial = (found.states == PARTIAL).sum()
        assert m["batch/useful_groups"] == min(partial, 12)
    assert any((found.states == PARTIAL).sum() > 12 for found in observed)


REWARD = """
calls = 0

def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    global calls
    calls += 1
    if {fails}:
        raise ZeroDivisionError("on purpose")
    return float(solution_str == ground_truth)
"""


# In training, how much of an answer is right. Of test prompts everything is right in the second evaluation, after
# step 1, and wrong in those before and after it, by two points too many.
DENSE = """
tested = 0

def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    global tested
    if extra_info["split"] == "test":
        tested += 1
        right = 80 < tested <= 160
        return {"score": 2.0 + right, "acc": float(right)}
    if len(ground_truth) > 20:
        raise ZeroDivisionError("on purpose")
    same = sum(a == b for a, b in zip(solution_str, ground_truth))
    return same / max(len(solution_str), len(ground_truth))
"""


@pytest.fixture(scope="module")
def scored_by_the_users(tmp_path_factory, able_policy, chains):
    """The folder of a run of 2 steps with a reward function of the user's own, and what it printed."""
    folder, said = tmp_path_factory.mktemp("scored"), io.StringIO()
    (folder / "reward.py").write_text(DENSE)
    with redirect_stdout(said):
        code = run(
            folder / "run",
            able_policy,
            chains,
            f"data.reward={folder / 'reward.py'}:compute_score",
            "states.rule=variation",
            "selector.observation=rewards",
            "loop.steps=2",
            "loop.batch_size=24",
            "eval.every=1",
            "checkpoint.every=0",
            "checkpoint.keep=1",
        )
    assert code == 0
    return folder / "run", said.getvalue()


def test_the_checkpoint_of_the_best_evaluated_step_is_made_and_kept(scored_by_the_users):
    folder, said = scored_by_the_users
    metrics = read_metrics(folder)
    assert [m["val-core/all/acc/mean@4"] for m in metrics] == [0, 1, 0]
    assert [m["val-aux/all/reward/mean@4"] for m in metrics] == [2, 3, 2]
    storage = Storage.at(folder)
    kept = [load(storage, name) for name in manifests(storage)]
    assert [(manifest.step, manifest.accuracy) for manifest in kept] == [(2, 0), (1, 1)]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["best"] == {
        "step": 1,
        "accuracy": 1,
        "model": model_folder(storage, kept[1]),
    }
    assert f"Best model: {summary['best']['model']}" in said
    start, best, last = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        for path in (summary["model"], summary["best"]["model"], summary["checkpoint"])
    )
    weights = [model.lm_head.weight for model in (start, best, last)]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])


def test_a_reward_function_that_fails_on_some_prompts_skips_and_counts_them(scored_by_the_users):
    folder, said = scored_by_the_users
    steps = [m for m in read_metrics(folder) if "critic/rewards/mean" in m]
    assert sum(m["rollouts/skipped"] for m in steps) > 0
    assert "ZeroDivisionError: on purpose" in said
    # A failed group is neither an answer nor an observation.
    summary = json.loads((folder / "summary.json").read_text())
    observed = sum(int(t) * n for t, n in summary["times_sampled"].items())
    assert observed == 48 - sum(m["rollouts/skipped"] for m in steps)


def test_with_a_dense_reward_groups_that_vary_are_partial_and_the_beliefs_are_told_by_how_much(
    scored_by_the_users,
):
    folder, _ = scored_by_the_users
    steps = [m for m in read_metrics(folder) if "critic/rewards/mean" in m]
    log = dict(committed(*newest(folder)))
    for step, m in enumerate(steps, start=1):
        seen, partial = log[step], log[step].states == PARTIAL
        assert partial.any()
        np.testing.assert_array_equal(partial, seen.deviations > 0.05)
        np.testing.assert_array_equal(partial, (seen.successes > 0) & (seen.successes < 4))
        assert seen.means.mean() == pytest.approx(m["critic/rewards/mean"])
        assert partial.mean() == pytest.approx(m["tasksample/partial_solve_ratio"])
        assert m["batch/useful_groups"] >= partial.sum()
        assert m["critic/rewards/mean"] > m["acc/mean"]


def test_a_reward_function_that_fails_for_good_stops_the_run_and_loses_no_step(
    tmp_path, able_policy, chains, capsys
):
    (tmp_path / "reward.py").write_text(REWARD.format(fails="calls > 48"))  # from step 2 on
    reward = f"data.reward={tmp_path / 'reward.py'}:compute_score"
    assert run(tmp_path / "run", able_policy, chains, reward, "data.test=null") == 2
    said = capsys.readouterr().err
    assert "all 12 groups failed" in said
    assert "ZeroDivisionError: on purpose" in said
    storage, manifest = newest(tmp_path / "run")
    assert manifest.step == 1
    assert Path(model_folder(storage, manifest), "config.json").exists()
