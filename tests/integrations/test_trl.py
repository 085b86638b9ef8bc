"""TRL on selected prompts, with the real trainer."""

import json
import os
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("trl", reason='TRL is not installed: pip install "dps_ray[trl]"')

import trl
from datasets import IterableDataset
from trl import GRPOTrainer, RLOOConfig, RLOOTrainer

from dps_ray import PromptSampler
from dps_ray.errors import CheckpointError, ConfigError, FrameworkError
from dps_ray.integrations import trl as plugin
from dps_ray.integrations.state_file import STATE_FILE
from dps_ray.integrations.trl import DPSGRPOTrainer, DPSMixin
from tests.integrations.trl_run import GROUP, ROWS, Rewards, config, data, trained, trainer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:TRL currently supports vLLM")]
ROOT = Path(__file__).parents[2]
KINDS = {"kinds": "level"}


def assert_choices_of_a_sampler(
    groups: list[tuple[list[int], np.ndarray]], **arguments: Any
) -> None:
    """These are the choices of a `PromptSampler` that is told the rewards of each generation before the next."""
    levels = data()["level"]
    sampler = PromptSampler(range(ROWS), GROUP, **{"kinds": list(levels), "seed": 3, **arguments})
    for keys, rewards in groups:
        assert keys == sampler.take(len(keys))
        sampler.report(keys, rewards)


@pytest.mark.parametrize(
    ("settings", "generations"),
    [
        ({}, 4),
        ({"per_device_train_batch_size": 3 * GROUP, "gradient_accumulation_steps": 2}, 4),
        ({"per_device_train_batch_size": 2 * GROUP, "steps_per_generation": 3}, 2),
        ({"num_iterations": 2}, 2),
        ({"dataloader_num_workers": 1, "dataloader_prefetch_factor": 2}, 4),
        ({"remove_unused_columns": False, "shuffle_dataset": False}, 4),
    ],
    ids=[
        "as it comes",
        "gradient accumulation",
        "steps per generation",
        "iterations",
        "loader processes",
        "in order",
    ],
)
def test_each_generation_is_chosen_by_the_rewards_of_all_before_it(
    tiny_policy, tmp_path, settings, generations
):
    rewards = Rewards()
    trainer(tiny_policy, tmp_path, rewards, settings=settings, dps=KINDS).train()
    assert len(rewards.rows) == generations
    assert_choices_of_a_sampler(rewards.groups())


def test_prompts_are_known_by_a_column_where_one_is_named(tiny_policy, tmp_path):
    rewards = Rewards()
    made = trainer(tiny_policy, tmp_path, rewards, dps={"key": "prompt", "method": "dps"})
    made.train()
    assert set(made.prompt_sampler.in_flight) == set()
    sampler = PromptSampler(data()["prompt"], GROUP, "dps", seed=3)
    for keys, given in rewards.groups():
        taken = sampler.take(len(keys))
        assert [f"{key // 10}+{key % 10}=" for key in keys] == taken
        sampler.report(taken, given)


def test_metrics_are_logged_and_agree_with_those_of_trl(tiny_policy, tmp_path):
    made = trainer(tiny_policy, tmp_path, Rewards(), dps=KINDS)
    made.train()
    steps = [logged for logged in made.state.log_history if "loss" in logged]
    assert len(steps) == 4
    for logged in steps:
        assert logged["dps/effective_ratio"] == pytest.approx(1 - logged["frac_reward_zero_std"])
        assert logged["dps/seconds"] > 0
    assert steps[-1]["dps/distinct"] == made.prompt_sampler.metrics()["distinct"]


def test_between_two_logs_ratios_are_averaged_and_counts_are_the_last(tiny_policy, tmp_path):
    rewards = Rewards()
    made = trainer(tiny_policy, tmp_path, rewards, settings={"logging_steps": 4}, dps=KINDS)
    made.train()
    (logged,) = [logged for logged in made.state.log_history if "loss" in logged]
    partial = [(given.sum(1) > 0) & (given.sum(1) < GROUP) for _, given in rewards.groups()]
    assert logged["dps/effective_ratio"] == pytest.approx(np.mean(partial))
    assert logged["dps/distinct"] == made.prompt_sampler.metrics()["distinct"]


def test_evaluation_is_that_of_trl(tiny_policy, tmp_path):
    found = []
    for kind, arguments in ((DPSGRPOTrainer, {"dps": KINDS}), (GRPOTrainer, {})):
        rewards = Rewards()
        made = trainer(
            tiny_policy,
            tmp_path,
            rewards,
            kind,
            settings={"per_device_eval_batch_size": 2 * GROUP},
            eval_dataset=data(8),
            **arguments,
        )
        before = made.prompt_sampler.state_dict() if arguments else {}
        logged = made.evaluate()
        after = made.prompt_sampler.state_dict() if arguments else {}
        np.testing.assert_equal(after, before)
        found.append((rewards.rows, logged.keys()))
    assert found[0] == found[1]
    assert not any("dps" in name for name in found[0][1])


def test_training_goes_on_from_an_evaluation_as_without_it(tiny_policy, tmp_path):
    rewards = Rewards()
    settings = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 2 * GROUP}
    made = trainer(
        tiny_policy, tmp_path, rewards, settings=settings, dps=KINDS, eval_dataset=data(8)
    )
    made.train()
    training = [group for group in rewards.groups() if len(group[0]) == 6]
    assert len(training) == 4 < len(rewards.rows)
    assert_choices_of_a_sampler(training)


# --- rewards --------------------------------------------------------------------------------------


def test_what_is_right_may_be_said_by_one_of_several_reward_functions(tiny_policy, tmp_path):
    right = Rewards()

    def style(prompts: list[str], **_: Any) -> list[float]:
        return [0.25] * len(prompts)

    arguments = {
        "rewards": [style, right],
        "settings": {"reward_weights": [1.0, 0.5]},  # a right response has .75 in all
    }
    made = trainer(tiny_policy, tmp_path, **arguments, dps={**KINDS, "accuracy": "right"})
    made.train()
    assert_choices_of_a_sampler(right.groups())
    with pytest.raises(ConfigError, match=r"which response is right.*'accuracy': 'style'"):
        trainer(tiny_policy, tmp_path, **arguments, dps=KINDS)
    with pytest.raises(ConfigError, match="name one reward function of style, right"):
        trainer(tiny_policy, tmp_path, **arguments, dps={"accuracy": "wright"})


def test_a_response_that_no_function_scores_is_not_observed(tiny_policy, tmp_path):
    class Some(Rewards):
        def __call__(self, prompts, completion_ids, row, level, **others):
            super().__call__(prompts, completion_ids, row, level, **others)
            self.given[-1] = [
                None if r % 5 == 0 or i % GROUP == 0 else reward
                for i, (r, reward) in enumerate(zip(row, self.given[-1], strict=True))
            ]
            return self.given[-1]

    rewards = Some()
    made = trainer(tiny_policy, tmp_path, rewards, dps=KINDS)
    made.train()
    lost = [key for keys, _ in rewards.groups() for key in keys if key % 5 == 0]
    assert made.prompt_sampler.metrics()["failed"] == len(lost) > 0
    assert_choices_of_a_sampler(rewards.groups())


def test_prompts_are_free_again_when_generation_fails(tiny_policy, tmp_path):
    class Failing(Rewards):
        def __call__(self, *args, **others):
            raise OSError("the judge does not answer")

    made = trainer(tiny_policy, tmp_path, Failing(), dps=KINDS)
    with pytest.raises(OSError, match="the judge"):
        made.train()
    assert made.prompt_sampler.in_flight == []
    assert made.prompt_sampler.metrics()["released"] == 6


# --- checkpoints ----------------------------------------------------------------------------------


def task(policy: Path, folder: Path, **settings: Any) -> dict[str, Any]:
    return {
        "policy": str(policy),
        "folder": str(folder),
        "by_text": False,
        "killed_at": None,
        "resume": False,
        "seeds": [3, 3],
        "settings": settings,
    }


def ran(task: dict[str, Any], processes: int = 1) -> list[tuple[int, str]]:
    """Exit code and standard error of each process of a training."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.integrations.trl_run", json.dumps(task)],
            env=os.environ
            | together
            | (
                {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
                if processes > 1
                else {}
            ),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    said = [process.communicate()[1] for process in started]
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


def rolled_out(folder: Path, rank: int = 0) -> dict[str, Any]:
    return json.loads((folder / f"rank-{rank}.json").read_text())


@pytest.mark.parametrize(
    "settings",
    [{}, {"per_device_train_batch_size": 2 * GROUP, "gradient_accumulation_steps": 3}],
    ids=["as it comes", "gradient accumulation"],
)
def test_a_killed_and_resumed_training_chooses_as_an_undisturbed_one(
    tiny_policy, tmp_path, settings
):
    settings |= {"max_steps": 6, "save_strategy": "steps", "save_steps": 2}
    whole = task(tiny_policy, tmp_path / "whole", **settings) | {"by_text": True}
    expected = trained(whole)
    cut = task(tiny_policy, tmp_path / "cut", **settings) | {"by_text": True, "killed_at": 5}
    ((code, said),) = ran(cut)
    assert code == -signal.SIGKILL, said
    ((code, said),) = ran(cut | {"killed_at": None, "resume": True})
    assert code == 0, said
    assert rolled_out(tmp_path / "cut") == {name: values[4:] for name, values in expected.items()}


def test_a_training_resumed_in_the_midst_of_a_generation_chooses_the_next_prompts(
    tiny_policy, tmp_path
):
    settings = {"num_iterations": 2, "max_steps": 3, "save_strategy": "steps", "save_steps": 3}
    first, then = Rewards(), Rewards()
    trainer(tiny_policy, tmp_path, first, settings=settings, dps=KINDS).train()
    again = trainer(tiny_policy, tmp_path, then, settings=settings | {"max_steps": 6}, dps=KINDS)
    again.train(resume_from_checkpoint=True)
    assert_choices_of_a_sampler(first.groups() + then.groups())


def test_a_checkpoint_without_the_sampler_is_resumed_with_a_warning(tiny_policy, tmp_path):
    settings = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1}
    trainer(tiny_policy, tmp_path, Rewards(), GRPOTrainer, settings=settings).train()
    rewards = Rewards()
    made = trainer(tiny_policy, tmp_path, rewards, settings=settings | {"max_steps": 3}, dps=KINDS)
    with pytest.warns(RuntimeWarning, match=rf"checkpoint-1 has no {STATE_FILE}"):
        made.train(resume_from_checkpoint=True)
    assert_choices_of_a_sampler(rewards.groups())


def test_a_checkpoint_of_another_method_is_refused(tiny_policy, tmp_path):
    settings = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1}
    trainer(tiny_policy, tmp_path, Rewards(), settings=settings, dps={"method": "dps"}).train()
    made = trainer(
        tiny_policy, tmp_path, Rewards(), settings=settings | {"max_steps": 2}, dps=KINDS
    )
    with pytest.raises(CheckpointError, match="dps_pooled"):
        made.train(resume_from_checkpoint=True)


# --- several processes ----------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [6, 3], ids=["whole groups each", "a group cut by the border"])
def test_two_processes_choose_as_one(tiny_policy, tmp_path, groups):
    one = task(tiny_policy, tmp_path / "one", per_device_train_batch_size=groups * GROUP)
    two = task(tiny_policy, tmp_path / "two", per_device_train_batch_size=groups * GROUP // 2)
    two["settings"] |= {"save_strategy": "steps", "save_steps": 4}
    for code, said in ran(two, processes=2):
        assert code == 0, said
    expected = trained(one)
    ranks = [rolled_out(tmp_path / "two", rank) for rank in (0, 1)]
    for name, values in expected.items():
        assert [a + b for a, b in zip(ranks[0][name], ranks[1][name], strict=True)] == values
    assert (tmp_path / "two/checkpoint-4" / STATE_FILE).exists()


def test_processes_that_choose_different_prompts_stop(tiny_policy, tmp_path):
    for code, said in ran(task(tiny_policy, tmp_path) | {"seeds": [3, 4]}, processes=2):
        assert code != 0
        assert "StaleError: at step 0 the processes chose different prompts" in said


# --- other trainers, other versions ---------------------------------------------------------------


def test_the_mixin_serves_a_trainer_with_the_same_methods(tiny_policy, tmp_path):
    class DPSRLOOTrainer(DPSMixin, RLOOTrainer):
        pass

    made_for_grpo = config(tmp_path)
    shared = {
        name: getattr(made_for_grpo, name)
        for name in (
            *("output_dir", "max_steps", "per_device_train_batch_size", "num_generations"),
            *("max_completion_length", "report_to", "use_cpu", "bf16", "seed"),
            *("gradient_checkpointing", "disable_tqdm", "save_strategy"),
        )
    }
    rewards = Rewards()
    trainer(
        tiny_policy, tmp_path, rewards, DPSRLOOTrainer, args=RLOOConfig(**shared), dps=KINDS
    ).train()
    assert_choices_of_a_sampler(rewards.groups())


def test_a_trainer_with_other_methods_is_refused():
    class Other(GRPOTrainer):
        def _calculate_rewards(self, inputs, prompts, completions):
            return None

    class DPSOther(DPSMixin, Other):
        pass

    with pytest.raises(
        FrameworkError, match=r"DPSOther.*that of Other is _calculate_rewards\('self'"
    ):
        DPSOther()


def test_an_untested_version_of_trl_gives_a_warning(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plugin.check_trainer(DPSGRPOTrainer)
    monkeypatch.setattr(trl, "__version__", "9.0.0")
    with pytest.warns(RuntimeWarning, match=r"trl 9.0.0: dps_ray was tested with 1.14, 1.15, 1.16"):
        plugin.check_trainer(DPSGRPOTrainer)


def test_wrong_arguments_say_what_to_write(tiny_policy, tmp_path):
    def wrong(message: str, dps: dict[str, Any], **arguments: Any) -> None:
        with pytest.raises(ConfigError, match=message):
            trainer(tiny_policy, tmp_path, Rewards(), dps=dps, **arguments)

    wrong(
        "no column 'topic' to take kinds or keys from; the data has prompt, row", {"kinds": "topic"}
    )
    wrong("set num_generations", {"group_size": 8})
    wrong("decai", {"decai": 0.5})
    stream = IterableDataset.from_generator(lambda: iter(data()))
    wrong("without streaming", KINDS, train_dataset=stream)


def test_without_trl_the_import_says_what_to_install():
    program = "import sys; sys.modules['trl'] = None; import dps_ray.integrations.trl"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert 'needs TRL: pip install "dps_ray[trl]"' in done.stderr.splitlines()[-1]


def test_the_notebook_runs(able_policy, chains, tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(ROOT / "examples" / "trl_dps.ipynb", as_version=4)
    parameters = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    parameters.source = f"policy, file, steps = {str(able_policy)!r}, {str(chains[0])!r}, 2"
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    nbclient.NotebookClient(
        notebook, timeout=500, resources={"metadata": {"path": tmp_path}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert any(
        "effective_ratio" in output.get("data", {}).get("text/plain", "") for output in outputs
    )
