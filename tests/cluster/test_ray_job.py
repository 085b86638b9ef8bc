"""The main job by `ray job submit`, on a cluster that `ray start --head` made: log, stop, resume, exit codes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from actors.process import free_port
from pipelines.monitoring.run_log import read_metrics, read_summary
from tests.runs import arguments, newest
from tests.warm.cluster import node_arguments

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")
DEADLINE = 300.0  # seconds


class Head:
    """A Ray head node of its own, which only those who know its token may use."""

    def __init__(self, folder: Path) -> None:
        self.dashboard = free_port()
        worker = node_arguments()["setup_worker_path"]
        self._runtime_environment = json.dumps({"py_executable": f"{sys.executable} {worker}"})
        # What a person would set on both sides.
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "a-token-for-this-test-alone-0123456789",
            "RAY_ADDRESS": f"http://127.0.0.1:{self.dashboard}",
            # Three seconds otherwise, after which a job that is told to stop is killed.
            "RAY_JOB_STOP_WAIT_TIME_S": f"{DEADLINE:.0f}",
        }
        command = [
            *(RAY, "start", "--head", "--block", "--num-cpus=4", f"--port={free_port()}"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard}"),
            *(f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={folder}"),
        ]
        without_address = {k: v for k, v in self.environment.items() if k != "RAY_ADDRESS"}
        self._folder = folder
        self._log = folder.with_suffix(".log")
        self.process = subprocess.Popen(
            command, env=without_address, stdout=self._log.open("w"), stderr=subprocess.STDOUT
        )

    def job(self, *arguments: str) -> tuple[int, str]:
        """The exit code of `ray job ...`, and what it prints."""
        done = subprocess.run(
            [RAY, "job", *arguments],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
        return done.returncode, done.stdout + done.stderr

    def submit(self, name: str, overrides: Sequence[str], *options: str) -> tuple[int, str]:
        """As `job`. Unless an option says otherwise it follows the job's log to its end."""
        entrypoint = [sys.executable, "-m", "pipelines.grpo_dps", *overrides]
        named = (f"--submission-id={name}", "--working-dir=.")
        warm = f"--runtime-env-json={self._runtime_environment}"
        return self.job("submit", *named, warm, *options, "--", *entrypoint)

    def wait_for(self, name: str, pattern: str) -> None:
        """Until this is in a job's log."""
        log = self._folder / "session_latest" / "logs" / f"job-driver-{name}.log"
        until = time.monotonic() + DEADLINE
        while not (log.exists() and re.search(pattern, log.read_text())):
            assert time.monotonic() < until, f"{pattern} did not come in {log}"
            time.sleep(0.2)

    def end(self) -> None:
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        for child in psutil.wait_procs(children, timeout=30)[1]:
            child.kill()


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    started = Head(Path("/tmp") / f"ray-{os.getpid()}")  # short: Ray makes sockets in it
    until = time.monotonic() + DEADLINE
    while (found := started.job("list"))[0] != 0:
        assert time.monotonic() < until, found
    yield started
    started.end()


def test_a_job_is_readable_stops_with_a_valid_checkpoint_and_goes_on(
    head: Head, tmp_path: Path, able_policy: Path, chains: tuple[Path, Path]
) -> None:
    overrides = arguments(
        tmp_path / "run", able_policy, chains, "loop.steps=9999", "checkpoint.every=0"
    )
    code, said = head.submit("first", overrides, "--no-wait")
    assert code == 0, said
    head.wait_for("first", r"step +2/9999")
    code, said = head.job("stop", "first")
    assert "was stopped" in said
    _, log = head.job("logs", "first")
    assert "the same command continues the run" in log
    # Readable without a terminal: whole lines, no control characters but Ray's own around it.
    ours = log[log.index("dps_ray: ") : log.index("the same command")]
    assert re.search(r"^step +1/9999  reward \d\.\d\d  effective \d\.\d\d ", ours, re.MULTILINE)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", ours)
    _, manifest = newest(tmp_path / "run")
    assert 2 <= manifest.step < 9999
    # Again, to a step soon after.
    last = manifest.step + 2
    code, log = head.submit("second", [*overrides, f"loop.steps={last}"])
    assert code == 0, log
    assert f"continues from checkpoint {manifest.name}" in log
    summary = read_summary(tmp_path / "run")
    assert summary is not None
    assert summary["steps"] == last
    steps = [m["step"] for m in read_metrics(tmp_path / "run") if "training/step" in m]
    assert steps == list(range(1, last + 1))


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (("loop.stepz=3",), "error: loop.stepz"),
        (("folder=runs/here",), "error: folder=runs/here is relative"),
    ],
)
def test_a_job_that_cannot_run_fails_with_a_line_that_says_why(
    head: Head, overrides: tuple[str, ...], line: str
) -> None:
    code, log = head.submit(re.sub(r"\W", "-", overrides[0]), overrides)
    assert code != 0
    assert line in log
