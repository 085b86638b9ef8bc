"""Engines and ranks that have their cards by turns: the order changes no result.

On a CPU vLLM takes no notice of being told to sleep, and DeepSpeed's states are in the host's memory in any case. What
is shown is that both are told at the right time, and that nothing is lost on the way.
"""

import pytest

from dps_ray.config import settings
from dps_ray.errors import ConfigError
from pipelines.monitoring.run_log import read_metrics
from tests.runs import TWO_OF_EVERYTHING, assert_same_end, run

PAIR = ("resources.rollout.gpus_per_engine=0.5", "resources.learner.gpus_per_rank=0.5")


@pytest.mark.slow
def test_a_run_by_turns_ends_as_any_other_though_a_rank_and_an_engine_die(
    tmp_path, failpoints, finished, able_policy, chains
):
    armed = [
        failpoints("engine.sleep", engine=1),
        failpoints("learner.train.after", step=2, rank=1),
    ]
    overrides = (
        "resources.colocate=true",
        "checkpoint.every=1",
    )
    assert run(tmp_path / "run", able_policy, chains, *TWO_OF_EVERYTHING, *overrides) == 0
    assert all(each.went_off for each in armed)
    assert_same_end(tmp_path / "run", finished)
    last = read_metrics(tmp_path / "run")[-1]
    assert last["recovery/restarts/learner"] == 1
    assert last["recovery/restarts/rollout_engine"] >= 1


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ("resources.rollout.gpus_per_engine=1", "resources.learner.gpus_per_rank=1"),
            "on the same GPUs: write resources.rollout.gpus_per_engine=0.5",
        ),
        ((*PAIR, "loop.max_staleness=1"), "cannot generate and train at the same time"),
        ((*PAIR, "learner.zero_stage=3"), "set learner.zero_stage=2"),
    ],
)
def test_what_cannot_be_had_by_turns_is_refused(overrides, says):
    with pytest.raises(ConfigError, match=says):
        settings.load(None, ["resources.colocate=true", *overrides])
