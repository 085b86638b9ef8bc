"""Runs that train under other objectives than GRPO."""

import numpy as np
import pytest

from pipelines.monitoring.run_log import read_metrics
from tests.runs import run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "all_train", "more"),
    [
        ("reinforce_plus_plus", True, ()),
        ("gspo", False, ("objective.overlong_buffer=8", "learner.epochs=2")),
    ],
)
def test_a_named_objective_trains_the_groups_that_it_has_advantages_for(
    name, all_train, more, tmp_path, able_policy, chains
):
    overrides = (f"objective.name={name}", "loop.steps=2", *more)
    assert run(tmp_path, able_policy, chains, *overrides) == 0
    steps = [m for m in read_metrics(tmp_path) if "training/step" in m]
    assert len(steps) == 2
    for m in steps:
        partial = 12 * m["tasksample/partial_solve_ratio"]
        assert m["batch/useful_groups"] >= partial - 1e-9
        assert (m["batch/useful_groups"] == 12) == all_train or partial == 12
        assert m["actor/grad_norm"] > 0
        assert np.isfinite(m["actor/pg_loss"])
        assert m["actor/pg_clipfrac_lower"] == 0
    if name == "gspo":
        # A response moves by more than 3e-4 within a batch.
        assert any(m["actor/pg_clipfrac"] > 0 for m in steps)
