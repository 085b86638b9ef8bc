"""The Ray of these tests, started when the first of them wants it, with workers from the fork server."""

import atexit
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from actors.process import environment
from cluster.start import HEALTH_CHECKS, allow_slow_starts
from tests.warm.setup_worker import SOCKET

_CPUS = 64  # as far as Ray is told: the tests' actors share the cores
_SETUP_WORKER = Path(__file__).with_name("setup_worker.py")


@contextmanager
def joined() -> Iterator[str]:
    """`RAY_ADDRESS` names the tests' Ray within, so that a run joins it; its address."""
    address = _ray().address
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", address)
        yield address


def node_arguments() -> dict[str, Any]:
    """What a node of a `Cluster` is given, so that its workers come from the fork server."""
    os.environ[SOCKET] = _fork_server()
    # Tests wait for workers, so workers get as much of a busy core as tests do.
    os.environ.update(RAY_worker_niceness="0")
    allow_slow_starts()
    return {"setup_worker_path": str(_SETUP_WORKER)}


@cache
def _ray() -> Cluster:
    return Cluster(
        initialize_head=True,
        head_node_args={
            **node_arguments(),
            "num_cpus": _CPUS,
            "include_dashboard": False,
            # Ray would start one idle worker for each CPU, which costs more than it saves.
            "_system_config": {
                **HEALTH_CHECKS,
                "enable_worker_prestart": False,
                "prestart_worker_first_driver": False,
            },
        },
    )


@cache
def _fork_server() -> str:
    """The path of its socket."""
    path = str(Path(tempfile.mkdtemp(prefix="dps_ray-tests-")) / "socket")
    on_cpu = environment(threads=1, extra={"DS_ACCELERATOR": "cpu"})["env_vars"]
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.warm.fork_server", path],
        env={**os.environ, **on_cpu},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    atexit.register(server.kill)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    return path
