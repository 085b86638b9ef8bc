"""Real training over three nodes: a head without CPUs, one for rollouts and beliefs, one for the learner."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster

from dps_ray import BeliefStore
from dps_ray.durable import committed, reshard
from dps_ray.prompts.dataset import PromptTable
from pipelines.monitoring.run_log import read_metrics
from tests.faults.beliefs_run import beliefs_in
from tests.runs import newest, run
from tests.warm.cluster import node_arguments

pytestmark = pytest.mark.slow

POOLS = (
    "resources.rollout.engines=2",
    "resources.rollout.custom={rollout_node: 0.001}",
    "resources.learner.ranks=2",
    "resources.learner.custom={learner_node: 0.001}",
    "resources.beliefs.shards=4",
    "resources.beliefs.custom={rollout_node: 0.001}",
    "resources.verifiers.workers=2",
    "resources.verifiers.custom={rollout_node: 0.001}",
)


@pytest.fixture(scope="module")
def nodes() -> Iterator[dict[str, str]]:
    """The ids of the two that work, by what they are for."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    made = {
        kind: cluster.add_node(num_cpus=4, resources={f"{kind}_node": 1}, **node_arguments())
        for kind in ("rollout", "learner")
    }
    cluster.wait_for_nodes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", cluster.address)
        yield {kind: node.node_id for kind, node in made.items()}
    cluster.shutdown()


@pytest.mark.parametrize("stage", [1, 3])
def test_twenty_steps_with_every_actor_where_the_plan_says(
    nodes: dict[str, str],
    tmp_path: Path,
    able_policy: Path,
    chains: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    stage: int,
) -> None:
    overrides = (*POOLS, "loop.steps=20", "checkpoint.every=10", f"learner.zero_stage={stage}")
    assert run(tmp_path, able_policy, chains, *overrides) == 0
    steps = [m for m in read_metrics(tmp_path) if "training/step" in m]
    assert len(steps) == 20
    assert all(m["rollout/logprob_diff_mean"] < 1e-5 for m in steps if "actor/grad_norm" in m)
    assert _where("RolloutEngine", "BeliefShard", "Verifier") == {nodes["rollout"]}
    assert _where("LearnerRank") == {nodes["learner"]}
    said = capsys.readouterr().out
    assert "2 engines" in said
    assert "2 ranks" in said
    # The beliefs are those of a single store on one machine that observes the same.
    storage, manifest = newest(tmp_path)
    store = BeliefStore(PromptTable.open(chains[0], None).ids, decay=0.7)
    for _, observation in committed(storage, manifest):
        store.observe(observation)
    (expected,), found = reshard([store.snapshot()], 1), beliefs_in(storage, manifest)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def _where(*classes: str) -> set[str]:
    """Ids of the nodes that actors of these classes have ever been on."""
    ray.init(log_to_driver=False)
    try:
        actors = ray._private.state.actors().values()
        return {a["Address"]["NodeID"] for a in actors if a["ActorClassName"] in classes}
    finally:
        ray.shutdown()
