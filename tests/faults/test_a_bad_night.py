"""Whole runs in which processes die: they end as the run in which nothing happened."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from dps_ray.durable import ObservationLog, Storage, committed, manifests
from dps_ray.failpoints import VARIABLE
from pipelines.monitoring.run_log import read_events, read_metrics
from tests.pipelines.test_metrics import not_in_the_table
from tests.runs import TWO_OF_EVERYTHING, arguments, assert_same_end, newest, run
from tests.warm.cluster import joined

pytestmark = pytest.mark.slow


def test_one_of_each_kind_dies_and_a_disk_is_full_and_the_run_ends_as_if_nothing_had_happened(
    tmp_path, failpoints, finished, able_policy, chains, capsys
):
    armed = [
        failpoints("learner.save", "no-space", step=2, rank=0),
        failpoints("engine.generate.before", seed="0/step-2", engine=1),
        failpoints("verifier.score", verifier=0),
        failpoints("shard.apply.after", step=2, shard=1),
        failpoints("learner.train.before", step=3, rank=1),
    ]
    folder = tmp_path / "run"
    assert run(folder, able_policy, chains, *TWO_OF_EVERYTHING, "checkpoint.every=1") == 0
    assert all(each.went_off for each in armed)
    assert_same_end(folder, finished)

    said = capsys.readouterr().out
    assert "the checkpoint of step 2 failed" in said
    assert "No space left on device" in said
    last = read_metrics(folder)[-1]
    assert last["recovery/failed_checkpoints"] == 1
    for kind in ("rollout_engine", "verifier", "belief_shard", "learner"):
        assert last[f"recovery/restarts/{kind}"] == 1, kind
    assert {event["kind"] for event in read_events(folder)} == {
        "rollout_engine",
        "verifier",
        "belief_shard",
        "learner",
    }
    assert last["recovery/steps_lost"] == 1
    page = (folder / "report.html").read_text()
    for words in (
        *(f"{kind} restarts 1" for kind in ("rollout engine", "verifier", "learner")),
        "steps done again 1",
    ):
        assert words in page
    assert not_in_the_table(folder) == set()
    # The learner took steps 2 and 3 back, of which the log of the first epoch keeps a trace.
    storage, manifest = newest(folder)
    assert manifest.name == "e0002.00000003"
    assert ObservationLog(storage, 1).steps() == [1, 2, 3]
    assert [step for step, _ in committed(storage, manifest)] == [1, 2, 3]


def test_one_of_each_kind_dies_as_the_run_starts_or_goes_back_and_the_run_ends_as_if_nothing_had_happened(
    tmp_path, failpoints, finished, able_policy, chains
):
    armed = [
        failpoints("engine.start", engine=0),
        failpoints("verifier.start", verifier=1),
        failpoints("shard.start", shard=0),
        failpoints("learner.start", epoch=1, rank=1),
        failpoints("learner.send", weights="e0002.00000000", rank=0),  # the first publication
        failpoints("shard.restore", epoch=3, shard=1),
        # The run goes back to the checkpoint of step 1, and the learner dies as it is loaded.
        failpoints("learner.save", step=2, rank=0),
        failpoints("learner.load", epoch=4, rank=1),
    ]
    folder = tmp_path / "run"
    # Whether a step trains the learner, and so counts as its success, is for the policy to say.
    overrides = (*TWO_OF_EVERYTHING, "checkpoint.every=1", "recovery.restarts=5")
    assert run(folder, able_policy, chains, *overrides) == 0
    assert all(each.went_off for each in armed)
    assert_same_end(folder, finished)
    last = read_metrics(folder)[-1]
    lost = {"rollout_engine": 1, "verifier": 1, "belief_shard": 2, "learner": 4}
    assert {kind: last[f"recovery/restarts/{kind}"] for kind in lost} == lost
    assert newest(folder)[1].name == "e0005.00000003"


def start(folder, policy, chains, *overrides, failpoints=None):
    """The main job as a process of its own."""
    command = [sys.executable, "-m", "pipelines.grpo_dps"]
    with joined():
        return subprocess.Popen(
            [*command, *arguments(folder, policy, chains, *overrides)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **({VARIABLE: failpoints} if failpoints else {})},
        )


def test_the_driver_is_killed_and_the_same_command_ends_the_run(
    tmp_path, failpoints, finished, able_policy, chains
):
    folder = tmp_path / "run"
    failpoints("driver.observe.after", step=3)  # which is in the log then, and in no checkpoint
    process = start(folder, able_policy, chains, *TWO_OF_EVERYTHING)
    assert process.wait() == -signal.SIGKILL, process.stdout.read()
    assert manifests(Storage.at(folder)) == ["e0001.00000002"]
    assert run(folder, able_policy, chains, *TWO_OF_EVERYTHING) == 0
    storage, manifest = newest(folder)
    assert manifest.name == "e0002.00000003"
    assert [step for step, _ in committed(storage, manifest)] == [1, 2, 3]
    assert_same_end(folder, finished)


def test_sigterm_leaves_a_checkpoint_and_exit_code_0(tmp_path, able_policy, chains):
    folder = tmp_path / "run"
    process = start(
        folder, able_policy, chains, "loop.steps=1000", "checkpoint.every=0", "data.test=null"
    )
    for line in process.stdout:
        if " 2/1000 " in line:
            break
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert "the same command continues the run" in said
    storage, manifest = newest(folder)
    assert manifest.step >= 2
    assert len(list(committed(storage, manifest))) == manifest.step


def test_a_run_goes_on_with_other_numbers_of_everything(tmp_path, finished, able_policy, chains):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    fewer = (
        "resources.beliefs.shards=3",
        "resources.rollout.engines=1",
        "resources.learner.ranks=1",
        "resources.verifiers.workers=1",
        "loop.steps=4",
    )
    assert run(folder, able_policy, chains, *TWO_OF_EVERYTHING, *fewer) == 0
    storage, manifest = newest(folder)
    assert (manifest.name, manifest.belief_shards, manifest.learner_ranks) == (
        "e0002.00000004",
        3,
        1,
    )
    assert len(list(committed(storage, manifest))) == 4
