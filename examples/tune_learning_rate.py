"""Tunes the learning rate with Ray Tune. Each trial is a run in a folder of its own.

    python examples/tune_learning_rate.py --folder runs/tune --steps 20

A trial that fails is started again, and its run continues from its newest checkpoint.
"""

import argparse
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import FailureConfig, ResultGrid, RunConfig, TuneConfig, Tuner

from dps_ray import Config
from pipelines import Trainer
from pipelines.monitoring.held_out import held_out_accuracy


def trial(parameters: dict[str, Any]) -> None:
    """One run. Tune calls this in a process of its own, which is connected to Ray already."""
    config = Config.load(
        "arithmetic",
        folder=Path(parameters["folder"]) / tune.get_context().get_trial_id(),
        **parameters["settings"],
    )
    with Trainer.build(config) as trainer:
        for result in trainer:
            report = {
                "step": result.step,
                "effective_ratio": result.metrics["tasksample/partial_solve_ratio"],
                "reward": result.metrics["critic/rewards/mean"],
            }
            accuracy = held_out_accuracy(result.metrics)  # at the steps that are evaluated
            tune.report(report | ({"accuracy": accuracy.mean} if accuracy else {}))


def tune_learning_rate(
    folder: Path, learning_rates: list[float], settings: dict[str, Any]
) -> ResultGrid:
    """The results of one run for each learning rate.

    Args:
        settings: of all runs, as `Config.load` takes them.
    """
    learner = settings.get("learner", {})
    tuner = Tuner(
        # The actors of a run have resources of their own; the trial itself only waits for them.
        tune.with_resources(trial, {"cpu": 0.1}),
        param_space={
            "folder": str(folder.absolute()),
            "settings": settings | {"learner": learner | {"lr": tune.grid_search(learning_rates)}},
        },
        tune_config=TuneConfig(max_concurrent_trials=1),
        run_config=RunConfig(
            name="learning_rate",
            storage_path=str(folder.absolute()),
            failure_config=FailureConfig(max_failures=2),
        ),
    )
    return tuner.fit()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/tune"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--lr", type=float, nargs="+", default=[1e-4, 3e-4, 1e-3])
    options = parser.parse_args()
    results = tune_learning_rate(options.folder, options.lr, {"loop": {"steps": options.steps}})
    best = results.get_best_result("accuracy", "max")
    assert best.config is not None
    assert best.metrics is not None
    lr, accuracy = best.config["settings"]["learner"]["lr"], best.metrics["accuracy"]
    print(f"best: learner.lr={lr:g}, accuracy {accuracy:.1%}")
