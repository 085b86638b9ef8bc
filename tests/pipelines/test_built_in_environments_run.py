"""Real runs of the shipped configurations over several turns, with tiny policies and for two steps."""

import pytest

from pipelines.data import builtin
from pipelines.data.start_policy import tiny_policy
from pipelines.grpo_dps import main
from pipelines.monitoring.run_log import read_metrics
from tests.warm.cluster import joined

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("task", "make"),
    [
        ("calculator", builtin.ensure_calculator),
        ("guess_the_number", builtin.ensure_guess_the_number),
    ],
)
def test_a_run_with_a_shipped_configuration_plays_several_turns_and_trains(task, make, tmp_path):
    train, test = make(tmp_path / "data", pool=60, test=22)
    arguments = [
        f"--config={task}",
        f"folder={tmp_path / 'run'}",
        f"model.path={tiny_policy(tmp_path, steps=150, task=task)}",
        f"data.train={train}",
        f"data.test={test}",
        "loop.steps=2",
        "loop.filter_groups=false",
        "rollout.threads=1",
        "learner.threads=1",
        "eval.samples=1",
        "probe.every=0",
    ]
    with joined():
        assert main(arguments) == 0
    metrics = read_metrics(tmp_path / "run")
    steps = [m for m in metrics if "critic/rewards/mean" in m]
    assert len(steps) == 2
    for step in steps:
        assert step["environment/turns_mean"] > 1
        # Answers have a character and a semicolon at least, and responses end in a token.
        assert 0 < step["environment/written_share"] < 1
        assert step["environment/failed_groups"] == 0
    assert any(0 < step["critic/rewards/mean"] < 1 for step in steps)
    held_out = [
        m[f"val-core/{task}/acc/mean@1"] for m in metrics if f"val-core/{task}/acc/mean@1" in m
    ]
    assert all(0 <= accuracy <= 1 for accuracy in held_out)
    assert len(held_out) == 2
