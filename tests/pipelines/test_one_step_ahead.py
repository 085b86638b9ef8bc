"""loop.max_staleness=1: the next batch is rolled out while the learner trains, with weights a step older."""

import signal
import subprocess
import sys

import pytest

from dps_ray.durable import ObservationLog
from pipelines.monitoring.run_log import read_metrics, read_summary
from tests.runs import arguments, newest, run
from tests.warm.cluster import joined

pytestmark = pytest.mark.slow

AHEAD = ("loop.max_staleness=1", "loop.steps=4", "loop.batch_size=32", "rollout.group_size=8")


def steps_of(folder):
    return [m for m in read_metrics(folder) if "training/step" in m]


def test_every_batch_but_the_first_is_one_version_old_and_corrected_for(
    tmp_path, able_policy, chains
):
    assert run(tmp_path, able_policy, chains, *AHEAD, "probe.every=2", "probe.prompts=8") == 0
    steps = steps_of(tmp_path)
    # A step in which no group carried gradient makes no new version.
    trained = ["actor/grad_norm" in m for m in steps]
    assert trained[0]
    assert any(trained[1:])
    assert [m["staleness/max"] for m in steps] == [0, *trained[:-1]]
    assert [m["staleness/mean"] for m in steps] == [0, *trained[:-1]]
    for m in (m for m in steps if "actor/grad_norm" in m):
        # The policy moved in between, and the engine's probabilities are no longer the learner's.
        assert (m["rollout/logprob_diff_mean"] > 1e-4) == (m["staleness/max"] == 1)
        assert m["rollout/importance_mean"] == pytest.approx(1.0, abs=0.2)
        assert m["rollout/importance_mean"] <= m["rollout/importance_max"] <= 2.0
    # Every step was observed, in order.
    storage, manifest = newest(tmp_path)
    assert ObservationLog(storage, manifest.epoch).steps() == [1, 2, 3, 4]
    assert read_summary(tmp_path)["steps"] == 4


@pytest.mark.parametrize("engines", [1, 2])
def test_an_engine_that_dies_while_the_learner_trains_costs_no_prompt(
    tmp_path, able_policy, chains, failpoints, engines
):
    failpoints("engine.generate.before", "die", engine=0, seed="0/step-3")
    assert run(tmp_path, able_policy, chains, *AHEAD) == 0
    steps = steps_of(tmp_path)
    assert [m["rollouts/skipped"] for m in steps] == [0] * 4
    assert steps[-1]["recovery/restarts/rollout_engine"] == 1
    # Alone, the engine had to wait for the learner, and was given its new weights.
    assert steps[2]["staleness/max"] == 0


def test_a_run_that_is_stopped_while_the_next_batch_is_rolled_out_keeps_the_step_in_hand(
    tmp_path, able_policy, chains
):
    command = [sys.executable, "-m", "pipelines.grpo_dps"]
    overrides = arguments(tmp_path / "run", able_policy, chains, *AHEAD, "checkpoint.every=0")
    with joined():
        job = subprocess.Popen([*command, *overrides], stdout=subprocess.PIPE, text=True)
    for line in job.stdout:
        if line.startswith("step 2/4"):
            job.send_signal(signal.SIGTERM)
            break
    job.stdout.read()
    assert job.wait() == 0
    _, manifest = newest(tmp_path / "run")
    assert 2 <= manifest.step <= 3
    assert steps_of(tmp_path / "run")[-1]["step"] == manifest.step
    assert run(tmp_path / "run", able_policy, chains, *AHEAD, "checkpoint.every=0") == 0
    steps = steps_of(tmp_path / "run")
    assert [m["step"] for m in steps] == [1, 2, 3, 4]
    # The batch that was in flight is rolled out again, with the newest weights.
    assert steps[manifest.step]["staleness/max"] == 0
