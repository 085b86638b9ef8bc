"""Joining Ray or starting it: what does not answer is named in time, and what was there before stays as it was."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from cluster import start
from cluster.placement import Placement
from cluster.start import START_TIMES, allow_slow_starts, connect, joins
from dps_ray.config import settings
from dps_ray.errors import ResourceError
from pipelines.monitoring.run_log import read_summary
from tests.network import closed_port, silent_port
from tests.runs import run

SMALL = settings.load(None, [])


@pytest.fixture
def address(monkeypatch):
    """RAY_ADDRESS is this, and a cluster has half a second to answer."""

    def point(to: str) -> None:
        monkeypatch.setenv("RAY_ADDRESS", to)
        monkeypatch.setattr(start, "JOIN_SECONDS", 0.5)

    return point


@pytest.fixture
def callers_actor(local_ray):
    """An actor of a program that has started Ray for purposes of its own."""

    @ray.remote(num_cpus=0)
    class Counter:
        def __init__(self):
            self.count = 0

        def add(self):
            self.count += 1
            return self.count

    actor = Counter.remote()
    assert ray.get(actor.add.remote()) == 1
    yield actor
    ray.kill(actor)


def living() -> list[str]:
    """Ids of the actors that are alive."""
    actors = ray._private.state.actors()
    return [id_ for id_, actor in actors.items() if actor["State"] != "DEAD"]


@pytest.mark.parametrize("port", [closed_port, silent_port])
def test_a_cluster_that_does_not_answer_is_named_in_time(address, port):
    with port() as number:
        address(f"127.0.0.1:{number}")
        with (
            pytest.raises(ResourceError, match=rf"RAY_ADDRESS=127.0.0.1:{number}: no Ray cluster"),
            connect(SMALL),
        ):
            pass
    assert not ray.is_initialized()


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("ray://127.0.0.1:10001", "does not go through ray://; submit it with `ray job submit`"),
        ("http://127.0.0.1:8265", "does not go through http://; submit it with `ray job submit`"),
        ("my-head", "Invalid address format: my-head; write HOST:PORT of the cluster's head"),
    ],
)
def test_what_is_no_address_of_a_head_is_refused(address, written, said):
    address(written)
    with pytest.raises(ResourceError) as error, connect(SMALL):
        pass
    assert said in str(error.value)
    assert not ray.is_initialized()


@pytest.mark.parametrize(
    ("written", "joined"), [(None, False), ("", False), ("local", False), ("auto", True)]
)
def test_local_is_a_ray_of_ones_own(monkeypatch, written, joined):
    if written is None:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    else:
        monkeypatch.setenv("RAY_ADDRESS", written)
    assert joins() is joined


def test_rays_processes_are_given_time_to_start_though_ray_is_imported(monkeypatch):
    for name in START_TIMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_worker_register_timeout_seconds", "99")
    read = ray._raylet.Config
    try:
        allow_slow_starts()
        assert {name: os.environ[name] for name in START_TIMES} == START_TIMES | {
            "RAY_worker_register_timeout_seconds": "99"  # the user's own
        }
        assert read.worker_register_timeout_seconds() == 99
        assert read.raylet_client_num_connect_attempts() == 300
    finally:
        monkeypatch.undo()
        read.initialize("")


@pytest.mark.slow
def test_a_ray_that_is_there_is_joined_and_left_with_its_actors(callers_actor):
    with connect(SMALL) as joined:
        assert joined
        Placement.reserve(SMALL).release()
    assert ray.is_initialized()
    assert ray.get(callers_actor.add.remote(), timeout=60) == 2


@pytest.mark.slow
def test_a_run_within_a_program_that_uses_ray_leaves_it_as_it_was(
    callers_actor, tmp_path, tiny_policy, chains
):
    free = ray.available_resources().get("CPU")
    assert run(tmp_path / "run", tiny_policy, chains, "loop.steps=1", "eval.every=0") == 0
    assert read_summary(tmp_path / "run")["steps"] == 1
    assert ray.get(callers_actor.add.remote(), timeout=60) == 2
    while living() != [callers_actor._actor_id.hex()]:  # Ray takes its time
        time.sleep(0.1)
    while ray.available_resources().get("CPU") != free:
        time.sleep(0.1)


@pytest.mark.slow
def test_a_cluster_of_another_version_is_refused_in_a_line(local_ray):
    from ray._common.usage import usage_constants
    from ray._private.ray_constants import KV_NAMESPACE_CLUSTER

    stored = usage_constants.CLUSTER_METADATA_KEY, KV_NAMESPACE_CLUSTER
    gcs = ray._private.worker.global_worker.gcs_client
    before = gcs.internal_kv_get(*stored)
    other = json.dumps(json.loads(before) | {"ray_version": "2.0.0"}).encode()
    gcs.internal_kv_put(stored[0], other, True, stored[1])
    try:
        program = (
            "from cluster.start import connect; from dps_ray.config import settings\n"
            "from pipelines.command.command_line import exit_code\n"
            "def work():\n with connect(settings.load(None, [])): print('joined')\n"
            "raise SystemExit(exit_code(work, ''))"
        )
        joining = subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address},
            capture_output=True,
            text=True,
        )
    finally:
        gcs.internal_kv_put(stored[0], before, True, stored[1])
    assert joining.returncode == 2
    assert "this process cannot join the cluster: Version mismatch" in joining.stderr
    assert "Traceback" not in joining.stderr
