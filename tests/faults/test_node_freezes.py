"""A node dies or freezes with a belief shard on it: the run goes on elsewhere within seconds, and what the
frozen shard does when it wakes up changes nothing."""

import os
import signal

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from cluster.start import HEALTH_CHECKS
from dps_ray.durable import load, verify
from tests.faults.beliefs_run import BeliefsRun, assert_equal, beliefs_in, undisturbed

pytestmark = pytest.mark.slow

# The head holds the driver; shards are placed on the others, of which each test loses one.
PLACED = ('resources.beliefs.custom={"shards": 0.5}', "timeouts.beliefs=8", "recovery.restarts=9")


@pytest.fixture(scope="module")
def cluster():
    nodes = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "_system_config": HEALTH_CHECKS},
    )
    for _ in range(3):
        nodes.add_node(num_cpus=1, resources={"shards": 1})
    nodes.wait_for_nodes()
    ray.init(address=nodes.address, log_to_driver=False)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def node_of(cluster, actor):
    """The node an actor is on, and all processes of that node."""
    here = ray.get(actor.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id()))
    node = next(node for node in cluster.worker_nodes if node.node_id == here)
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return node, [raylet, *raylet.children(recursive=True)]


def test_a_node_that_is_killed_takes_no_observation_with_it(cluster, tmp_path):
    run = BeliefsRun(tmp_path / "run", 2, *PLACED)
    batches = run.steps(1, 2, 3)
    run.save(3)
    batches += run.steps(4)
    node, processes = node_of(cluster, run.coordinator.members[1].actor)
    for process in processes:
        process.kill()
    node.all_processes["raylet"][0].process.wait()
    batches += run.steps(5, 6)
    assert_equal((batches, run.beliefs(6)), undisturbed(*range(1, 7)))


def test_a_frozen_node_is_left_behind_and_its_late_writes_change_nothing(
    cluster, failpoints, tmp_path
):
    frozen = failpoints("shard.save", "freeze", step=3, shard=1)
    run = BeliefsRun(tmp_path / "run", 2, *PLACED, "timeouts.checkpoint=8")
    batches = run.steps(1, 2, 3)
    node, processes = node_of(cluster, run.coordinator.members[1].actor)
    for process in processes:
        if "BeliefShard" not in " ".join(process.cmdline()):  # that one freezes as it saves
            os.kill(process.pid, signal.SIGSTOP)
    manifest = run.save(3)  # by its successor
    assert frozen.went_off
    batches += run.steps(4, 5)
    for process in processes:
        if process.is_running():
            os.kill(process.pid, signal.SIGCONT)
    node.all_processes["raylet"][0].process.wait()  # it learns that it was declared dead
    batches += run.steps(6)
    verify(run.storage, load(run.storage, manifest.name))
    assert_equal((batches[:3], beliefs_in(run.storage, manifest)), undisturbed(1, 2, 3))
    assert_equal((batches, run.beliefs(6)), undisturbed(*range(1, 7)))
