"""What a run saved at equal accuracy, as other runs were measured."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from dps_ray.config import Config
from dps_ray.errors import ConfigError, DataError
from pipelines.comparison.equal_accuracy import at_equal_accuracy
from pipelines.comparison.rows import Numbers, Point
from pipelines.monitoring.accuracy_curve import Spent, spending_of
from pipelines.monitoring.others import Other, others_in, savings
from pipelines.monitoring.summary import details
from pipelines.training.summary import compared

RECORDED = Path(__file__).parents[1] / "data" / "run"
ACCURACIES = {
    "uniform": [0.2, 0.3, 0.4],
    "ds_10": [0.2, 0.4, 0.6],
    "ds_4": [0.2, 0.4, 0.5],
    "dps": [0.2, 0.6, 0.8],
}


def comparison(folder, *methods):
    """The files of a comparison: each step has 1,000 rollouts, 20,000 tokens and 100 seconds of engines."""
    curves = [
        Point(method, seed, step, 1_000 * step, 20_000 * step, 0.0, None, accuracy, 100.0 * step)
        for method in methods
        for seed in (0, 1)
        for step, accuracy in enumerate(ACCURACIES[method])
    ]
    references = [method for method in methods if method.startswith("ds_")]
    numbers = Numbers(curves=curves, equal_accuracy=at_equal_accuracy(curves, references))
    folder.mkdir(exist_ok=True)
    numbers.write(folder)
    return folder


OURS = Spent(60, 500, 12_000, 50.0, 40.0, accuracy=0.5)


def test_a_run_is_compared_with_uniform_sampling_and_the_strongest_dynamic_sampling(tmp_path):
    others = others_in(comparison(tmp_path, "uniform", "ds_4", "ds_10", "dps"))
    assert [(other.name, len(other.seeds)) for other in others] == [("uniform", 2), ("ds_10", 2)]
    uniform, ds = savings(OURS, others, price_per_engine_hour=3.0)
    assert (uniform["reached"], uniform["took"], uniform["rollouts"]) == (False, 2_000, None)
    # .5 is in the middle of step 2, after 1,500 rollouts, 30,000 tokens and 150 seconds.
    assert (ds["took"], ds["rollouts"], ds["tokens"]) == (1_500, 1_000, 18_000)
    assert ds["engine_seconds"] == pytest.approx(110)
    assert ds["money"] == pytest.approx(110 / 1200)


def test_what_was_saved_is_told_as_measured_and_not_as_estimated(tmp_path):
    others = others_in(comparison(tmp_path, "uniform", "ds_10"))
    account = {
        "method": "dps_pooled",
        "steps": 60,
        "gradient_share": 0.7,
        "distinct_prompts": 10,
        "pool": 20,
        "seconds": 50.0,
        "rollouts": 500,
        "tokens": 12_000,
        "compared": {"folder": "runs/report", "methods": savings(OURS, others, 3.0)},
        "saved": {"rollouts": 5},
    }
    words = details(account)
    assert (
        "uniform (2 seeds in runs/report) did not reach this accuracy with 2,000 rollouts." in words
    )
    assert (
        "ds_10 (2 seeds in runs/report) was measured to take 1,500 rollouts to this accuracy: 1,000 more rollouts, "
        "18,000 more tokens, 1m50s more engine time, 0.09 more in GPU hours."
    ) in words
    assert not any("by the probes" in sentence for sentence in words)


def test_a_run_that_took_more_says_so():
    cheap = Other("ds", [[Spent(0, 0, 0, 0.0, None, 0.2), Spent(1, 100, 90_000, 1.0, None, 0.5)]])
    (found,) = savings(OURS, [cheap], price_per_engine_hour=3.0)
    assert (found["rollouts"], found["tokens"]) == (-400, 78_000)
    assert (found["engine_seconds"], found["money"]) == (None, None)
    account = {"method": "dps", "steps": 1, "gradient_share": 1.0, "distinct_prompts": 1, "pool": 1}
    account |= {"seconds": 1.0, "rollouts": 1, "tokens": 1}
    account["compared"] = {"folder": "runs/ds", "methods": [found]}
    assert (
        "ds (1 seed in runs/ds) was measured to take 100 rollouts to this accuracy: 400 fewer rollouts, 78,000 more tokens."
        in details(account)
    )


def test_a_run_may_be_compared_with_one_other_run(tmp_path):
    shutil.copytree(RECORDED, tmp_path / "run")
    (other,) = others_in(tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert other.name == summary["method"]
    (points,) = other.seeds
    assert points[-1].rollouts == summary["rollouts"]
    assert points[-1].accuracy == pytest.approx(summary["accuracy_after"]["mean"])


def test_a_run_compared_with_itself_saves_nothing(tmp_path):
    config = Config(folder=RECORDED, report={"compared_with": str(RECORDED)})
    found = compared(config, pytest.fail)
    assert found["folder"] == str(RECORDED)
    (method,) = found["methods"]
    assert method["reached"]
    assert method["took"] == method["rollouts"] + spending_of(RECORDED)[-1].rollouts
    assert method["rollouts"] <= 0  # the fit may be there before
    assert compared(Config(folder=RECORDED), pytest.fail) is None


def test_a_comparison_that_is_gone_in_the_end_is_told_and_costs_nothing_else(tmp_path):
    said = []
    gone = Config(folder=RECORDED, report={"compared_with": str(tmp_path / "gone")})
    assert compared(gone, said.append) is None
    assert len(said) == 1
    assert said[0].startswith(f"nothing is compared: report.compared_with={tmp_path}/gone")


def test_a_folder_without_runs_to_compare_with_is_refused_with_what_to_give(tmp_path):
    with pytest.raises(
        ConfigError, match=r"report\.compared_with=.*give the report folder of a comparison"
    ):
        others_in(tmp_path)
    with pytest.raises(
        ConfigError, match="neither uniform sampling nor Dynamic Sampling, only dps"
    ):
        others_in(comparison(tmp_path, "dps"))


def test_damaged_curves_are_an_error_with_their_folder(tmp_path):
    with (comparison(tmp_path, "uniform") / "curves.csv").open("a") as file:
        csv.writer(file).writerow(["uniform", "2", "first"])
    with pytest.raises(DataError, match=rf"report\.compared_with={tmp_path}: damaged file"):
        others_in(tmp_path)


def test_curves_without_accuracy_are_nothing_to_compare_with(tmp_path):
    (comparison(tmp_path, "uniform") / "curves.csv").write_text(
        "method,seed,step,rollouts,tokens,seconds,effective,accuracy\nuniform,0,0,0,0,0,,\n"
    )
    with pytest.raises(DataError, match="uniform has no measured accuracy"):
        others_in(tmp_path)
