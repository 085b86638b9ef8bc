"""Runs that begin with an evaluation of their start policy: the file is read once, and what it said is kept."""

import json
import shutil

import numpy as np
import pytest
from rich.console import Console

from benchmarks.faults import observations_lost
from dps_ray.config import settings as settings_file
from dps_ray.durable import committed
from dps_ray.prompts.dataset import PromptTable
from pipelines.comparison.replay import replayed
from pipelines.evaluate import main as evaluate
from pipelines.monitoring import json_lines
from pipelines.monitoring.run_log import read_metrics
from pipelines.training.pool_record import PoolRecord
from tests.runs import assert_same_end, newest, run
from tests.warm.cluster import joined

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory, able_policy, chains):
    """Four responses of the start policy to every training prompt."""
    folder = tmp_path_factory.mktemp("evaluation")
    with joined():
        code = evaluate(
            [
                f"model={able_policy}",
                f"data={chains[0]}",
                f"folder={folder}",
                "samples=4",
                "temperature=1",
                "model.dtype=float32",
                "data.max_prompt_length=32",
                "max_response_length=56",
                "max_prompts=60",
            ]
        )
    assert code == 0
    return folder


def answers(folder):
    (file,) = (folder / "prompts").iterdir()
    return json_lines.read(file)


def test_pooled_beliefs_begin_with_it_and_a_continued_run_needs_it_no_more(
    evaluation, able_policy, chains, tmp_path, capsys, failpoints
):
    """A shard dies before the first checkpoint, and the run goes on with another number of shards."""
    moved = shutil.copytree(evaluation, tmp_path / "moved")
    settings = ("method=dps_pooled", f"selector.start={moved}", "loop.steps=2")
    once = ("resources.beliefs.shards=3", "checkpoint.every=1")
    assert run(tmp_path / "whole", able_policy, chains, *settings, *once) == 0
    said = capsys.readouterr().out
    assert "240 responses to 60 of 120 prompts of the pool" in said
    assert "sampled with" not in said

    died = failpoints("shard.apply.after", step=1, shard=0)
    first = (*settings, "resources.beliefs.shards=2", "checkpoint.every=1")
    assert run(tmp_path / "parts", able_policy, chains, *first, "loop.steps=1") == 0
    assert died.went_off
    shutil.rmtree(moved)
    more = (*settings, "resources.beliefs.shards=1", "checkpoint.every=1")
    assert run(tmp_path / "parts", able_policy, chains, *more) == 0
    assert_same_end(tmp_path / "parts", tmp_path / "whole")

    storage, manifest = newest(tmp_path / "whole")
    config = settings_file.load(tmp_path / "whole" / "config.yaml")
    assert observations_lost(config, storage, manifest, Console()) == 0

    # A comparison has only the prompts that were rolled out, and cannot say what such beliefs predicted.
    assert replayed(tmp_path / "whole").forecasts == []

    # What was never right is no longer drawn as often as the rest, and evaluated prompts are told apart.
    names = PoolRecord.load(storage, manifest).cluster_names
    assert any(name.endswith(", none right") for name in names)
    record = read_metrics(tmp_path / "whole")
    assert record[1]["perf/total_rollouts"] == 48


def test_the_offline_filter_draws_what_was_solved_sometimes_and_pays_for_the_evaluation(
    evaluation, able_policy, chains, tmp_path, capsys
):
    moved = shutil.copytree(evaluation, tmp_path / "moved")
    settings = ("method=offline_filter", f"selector.start={moved}", "probe.every=1")
    folder = tmp_path / "run"
    assert run(folder, able_policy, chains, *settings, "loop.steps=1") == 0
    told = answers(evaluation)
    kept = [a["prompt_id"] for a in told if 0 < np.mean(a["accuracies"]) < 1]
    assert f"offline_filter keeps {len(kept)} of 120 prompts, for good" in capsys.readouterr().out
    shutil.rmtree(moved)
    assert run(folder, able_policy, chains, *settings, "loop.steps=3") == 0
    storage, manifest = newest(folder)
    steps = [found.ids for _, found in committed(storage, manifest)]
    assert np.isin(np.concatenate(steps), kept).all()
    assert [len(ids) for ids in steps] == [min(12, len(kept))] * 3

    metrics = {int(record["step"]): record for record in read_metrics(folder)}
    assert metrics[0]["perf/total_rollouts"] == 240
    assert metrics[0]["perf/total_tokens"] == sum(each["tokens"] for each in told)
    own = [metrics[step]["perf/total_rollouts"] for step in (0, 1, 2, 3)]
    assert np.diff(own).min() >= 4 * min(12, len(kept))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["rollouts"] == own[-1]


def test_a_filter_that_keeps_nothing_is_refused_before_any_actor_starts(
    evaluation, able_policy, chains, tmp_path, capsys
):
    settings = ("method=offline_filter", f"selector.start={evaluation}")
    nothing = ("selector.least_rate=0.98", "selector.most_rate=0.99")
    assert run(tmp_path, able_policy, chains, *settings, *nothing) == 2
    assert "method=offline_filter keeps none of the 60 prompts" in capsys.readouterr().err


def test_a_run_begins_with_the_log_of_an_earlier_one(
    finished, able_policy, chains, tmp_path, capsys
):
    settings = ("method=dps", f"selector.start={finished}", "loop.steps=1")
    assert run(tmp_path, able_policy, chains, *settings) == 0
    storage, manifest = newest(finished)
    ids = np.unique(np.concatenate([found.ids for _, found in committed(storage, manifest)]))
    assert f"to {len(ids)} of 120 prompts of the pool" in capsys.readouterr().out
    assert np.isin(ids, PromptTable.open(chains[0]).ids).all()
