"""The trainer as a Python program uses it: built, iterated, left, continued; and what it leaves alone."""

import signal
from pathlib import Path

import pytest
import ray

from dps_ray import Config
from dps_ray.errors import ConfigError
from pipelines import Callback, Trainer
from pipelines.monitoring.run_log import read_summary
from tests.runs import assert_same_end, newest, run, small_settings

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def small(able_policy, chains):
    return small_settings(able_policy, chains)


class Told(Callback):
    """Notes what it is called with."""

    def __init__(self):
        self.steps, self.evaluations = [], []

    def on_step(self, trainer, result):
        assert trainer.step_done == result.step
        self.steps.append(result.step)

    def on_evaluation(self, trainer, step, metrics):
        self.evaluations.append((step, metrics["val-core/all/acc/mean@4"]))


@pytest.mark.slow
def test_a_run_is_iterated_left_and_continued_and_ends_as_one_by_command(
    local_ray, small, tmp_path, able_policy, chains
):
    @ray.remote(num_cpus=0)
    class Mine:
        def here(self):
            return True

    mine, told = Mine.remote(), Told()
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    config = Config.load("arithmetic", **small, folder=tmp_path / "run")
    with Trainer.build(config, callbacks=[told]) as trainer:
        for result in trainer:
            assert 0 <= result.metrics["tasksample/partial_solve_ratio"] <= 1
            break
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    assert newest(tmp_path / "run")[1].step == 1
    assert read_summary(tmp_path / "run") is None
    with Trainer.build(config, callbacks=[told]) as trainer:
        assert trainer.step_done == 1
        summary = trainer.train()
        assert trainer.evaluate()["val-core/all/acc/mean@4"] == told.evaluations[-1][1]
    assert told.steps == [1, 2, 3]
    assert [step for step, _ in told.evaluations] == [0, 3, 3]
    assert summary == read_summary(tmp_path / "run")
    assert (tmp_path / "run" / "report.html").exists()
    assert ray.get(mine.here.remote())  # the caller's Ray, and what is in it, stays
    assert run(tmp_path / "command", able_policy, chains) == 0
    assert_same_end(tmp_path / "run", tmp_path / "command")


def test_what_is_wrong_is_a_typed_error_before_anything_starts(small, tmp_path):
    with pytest.raises(ConfigError, match=r"learner\.lrr=1: there is no such setting"):
        Config.load("arithmetic", learner={"lrr": 1})
    started = ray.is_initialized()  # by a test before this one
    config = Config.load("arithmetic", **small, folder=Path("/proc/no/run"))
    with pytest.raises(ConfigError, match="folder=/proc/no/run cannot be written to"):
        Trainer.build(config)
    assert ray.is_initialized() == started


@pytest.mark.slow
def test_the_notebook_runs(small, tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    parameters = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    parameters.source = f"settings = {small | {'folder': str(tmp_path / 'run')}!r}"
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    nbclient.NotebookClient(
        notebook, timeout=500, resources={"metadata": {"path": tmp_path}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert read_summary(tmp_path / "run")["steps"] == 3
