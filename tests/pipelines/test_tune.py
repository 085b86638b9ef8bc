"""Runs as trials of Ray Tune, by the example that shows it."""

import pytest
import ray

from dps_ray.failpoints import environment
from pipelines.monitoring.run_log import read_metrics
from tests.runs import newest, small_settings
from tests.warm.cluster import joined


@pytest.fixture
def ray_with_failpoints(failpoints):
    """The tests' Ray, with the armed points in every process of this job; arms them."""
    with joined():
        ray.init(log_to_driver=False, runtime_env={"env_vars": environment()})
        yield failpoints
        ray.shutdown()


@pytest.mark.slow
def test_a_trial_that_fails_continues_from_its_checkpoint(
    ray_with_failpoints, able_policy, chains, tmp_path
):
    from examples.tune_learning_rate import tune_learning_rate  # Tune takes a second to import

    failed = ray_with_failpoints("driver.observe.before", "error", step=3)
    folder = tmp_path / "tune"
    results = tune_learning_rate(folder, [1e-4, 1e-3], small_settings(able_policy, chains))
    assert failed.went_off
    assert results.num_errors == 0
    epochs = []
    for result in results:
        assert result.metrics["step"] == 3
        assert 0 <= result.metrics["accuracy"] <= 1
        run = folder / result.metrics["trial_id"]
        assert [m["training/step"] for m in read_metrics(run) if "training/step" in m] == [1, 2, 3]
        epochs.append(newest(run)[1].epoch)
    assert sorted(epochs) == [1, 2]  # one of them was started twice, and went on from step 2
