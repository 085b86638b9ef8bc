"""Every actor gets what its pool asks for, where it is meant to be; what cannot be placed is named."""

import time

import pytest
import ray
from ray.cluster_utils import Cluster

from cluster.placement import Bundle, Group, Placement, Seat, first_without_room, plan
from cluster.start import HEALTH_CHECKS
from dps_ray.config import settings
from dps_ray.errors import ConfigError, ResourceError
from pipelines.training.fit import check_fit

ON_GPUS = (
    "resources.learner={ranks: 2, gpus_per_rank: 1}",
    "resources.rollout={engines: 1, gpus_per_engine: 2}",
)
SHARED = ("resources.learner.gpus_per_rank=0.4", "resources.rollout.gpus_per_engine=0.5")


def load(*overrides):
    return settings.load(None, overrides)


# --- the plan ------------------------------------------------------------------------------------


def test_ranks_are_packed_in_one_group_and_each_engine_has_its_own():
    asked = plan(load(*ON_GPUS, "resources.rollout.engines=2"))
    rank, engine = {"GPU": 1, "CPU": 1}, {"GPU": 2, "CPU": 1}
    assert asked.groups == (
        Group("PACK", (Bundle("learner rank 0", rank), Bundle("learner rank 1", rank))),
        Group("STRICT_PACK", (Bundle("rollout engine 0", engine),)),
        Group("STRICT_PACK", (Bundle("rollout engine 1", engine),)),
    )
    assert asked.learner.seats == (Seat(0, 0), Seat(0, 1))
    assert asked.rollout.seats == (Seat(1, 0), Seat(2, 0))
    assert asked.totals == {"GPU": 6, "CPU": 4}


def test_without_training_there_are_engines_and_verifiers_only():
    asked = plan(load(*ON_GPUS, "resources.verifiers.workers=3"), training=False)
    assert asked.groups == (
        Group("STRICT_PACK", (Bundle("rollout engine 0", {"GPU": 2, "CPU": 1}),)),
    )
    assert asked.rollout.seats == (Seat(0, 0),)
    assert (asked.learner.actors, asked.beliefs.actors) == ((), ())
    assert len(asked.verifiers.actors) == 3
    assert asked.totals == {"GPU": 2, "CPU": 1}


def test_shards_and_verifiers_reserve_nothing_but_what_names_their_nodes():
    placement = Placement(
        plan(
            load(
                "resources.beliefs={shards: 4, custom: {cpu_node: 0.01}}", "resources.verifiers={}"
            )
        )
    )
    spread = {"num_cpus": 0, "num_gpus": 0, "scheduling_strategy": "SPREAD"}
    assert placement.beliefs(3) == {**spread, "resources": {"cpu_node": 0.01}}
    assert placement.verifiers(0) == {**spread, "resources": {}}


def test_an_engine_and_a_rank_that_share_a_card_share_a_bundle():
    asked = plan(load(*SHARED, "resources.learner.custom={card: 0.01}"))
    both = Bundle("rollout engine 0 with learner rank 0", {"GPU": 0.9, "CPU": 2, "card": 0.01})
    assert asked.groups == (Group("PACK", (both,)),)
    assert asked.learner.seats == asked.rollout.seats == (Seat(0, 0),)
    placement = Placement(asked)
    assert (placement.rollout(0)["num_gpus"], placement.learner(0)["num_gpus"]) == (0.5, 0.4)


def test_several_cards_are_shared_in_pairs():
    asked = plan(load(*SHARED, "resources.learner.ranks=2", "resources.rollout.engines=2"))
    [group] = asked.groups
    assert [bundle.asks["GPU"] for bundle in group.bundles] == [0.9, 0.9]
    assert asked.learner.seats == asked.rollout.seats == (Seat(0, 0), Seat(0, 1))


@pytest.mark.parametrize(
    "overrides",
    [
        ("resources.rollout.gpus_per_engine=1.5", "resources.learner.gpus_per_rank=1"),
        ("resources.rollout.gpus_per_engine=0.5", "resources.learner.gpus_per_rank=1"),
        ("resources.rollout.gpus_per_engine=0.7", "resources.learner.gpus_per_rank=0.4"),
        (*SHARED, "resources.rollout.engines=2"),
        (*SHARED, "resources.learner.ranks=2"),
    ],
)
def test_fractions_are_refused_but_for_an_engine_and_a_rank_on_each_card(overrides):
    with pytest.raises(ConfigError, match="fractions are for as many engines as ranks"):
        load(*overrides)


def test_fractions_that_leave_room_for_another_pair_are_refused():
    halves = ("resources.rollout.gpus_per_engine=0.3", "resources.learner.gpus_per_rank=0.2")
    with pytest.raises(ConfigError, match="two pairs on the same one"):
        load(*halves)


def test_bundles_fill_up_nodes_and_the_first_without_room_is_found():
    bundles = [Bundle(str(i), {"GPU": 2.0}) for i in range(3)]
    assert first_without_room(bundles, [{"GPU": 4}, {"GPU": 2}]) is None
    assert first_without_room(bundles, [{"GPU": 3}, {"GPU": 3, "CPU": 9}]) == bundles[2]


# --- on a cluster: a head without CPUs, and two nodes with three GPUs that are only counted --------


@pytest.fixture(scope="module")
def cluster():
    nodes = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "node_name": "head", "_system_config": HEALTH_CHECKS},
    )
    for name in "ab":
        nodes.add_node(num_cpus=4, num_gpus=3, resources={"cpu_node": 1}, node_name=name)
    ray.init(address=nodes.address, log_to_driver=False)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


@pytest.fixture
def reserve(cluster):
    """`Placement.reserve` on a cluster of which all is free, until the test ends."""
    made = []

    def reserve(*overrides, **arguments):
        made.append(Placement.reserve(load("resources.wait=60", *overrides), **arguments))
        return made[-1]

    yield reserve
    for placement in made:
        placement.release()
    while (free := ray.available_resources()).get("GPU", 0) < 6 or free.get("CPU", 0) < 8:
        time.sleep(0.1)


def started(*options):
    """Actors with these options, which know where they are."""

    class Reporter:  # within a function, so that it travels to the nodes
        def where(self):
            return ray.get_runtime_context().get_node_id(), ray.get_gpu_ids()

    return [ray.remote(Reporter).options(**each).remote() for each in options]


def places(actors):
    """Name of the node and GPUs of each."""
    found = ray.get([actor.where.remote() for actor in actors], timeout=120)
    return [(names()[node], gpus) for node, gpus in found]


def names():
    """Of the nodes that are alive, by id."""
    return {node["NodeID"]: node["NodeName"] for node in ray.nodes() if node["Alive"]}


@pytest.mark.slow
def test_ranks_are_on_one_node_an_engine_on_one_with_room_and_shards_on_both(reserve):
    placement = reserve(*ON_GPUS, "resources.beliefs={shards: 2, custom: {cpu_node: 0.01}}")
    ranks = places(started(placement.learner(0), placement.learner(1)))
    (engine,) = places(started(placement.rollout(0)))
    shards = places(started(placement.beliefs(0), placement.beliefs(1)))
    assert ranks[0][0] == ranks[1][0]
    assert ranks[0][1] != ranks[1][1]
    assert engine[0] != ranks[0][0]
    assert len(engine[1]) == 2
    assert {node for node, _ in shards} == {"a", "b"}
    assert placement.describe() == [
        f"learner  2 ranks x 1 GPU, 1 CPU                        {ranks[0][0]}",
        f"rollout  1 engine x 2 GPU, 1 CPU                       {engine[0]}",
        "spread   1 verifier, 2 belief shards x 0.01 cpu_node",
        "cluster  3 nodes                                       6 GPU, 8 CPU, 2 cpu_node",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "missing"),
    [
        # 2 GPUs would be left for it, one on either node.
        (("resources.rollout.engines=2",), "rollout engine 1, which needs 2 GPU, 1 CPU"),
        (
            ("resources.learner.custom={fast: 1}",),
            "learner rank 0, which needs 1 GPU, 1 CPU, 1 fast",
        ),
        (("resources.beliefs.custom={big: 1}",), "belief shard 0, which needs 1 big"),
    ],
)
def test_what_has_no_place_is_named_in_time_and_the_rest_given_back(reserve, overrides, missing):
    with pytest.raises(ResourceError, match=missing) as error:
        reserve(*ON_GPUS, *overrides, "resources.wait=2")
    assert "after resources.wait=2 s" in str(error.value)
    assert "; head nothing. Request" in str(error.value)
    reserve(*ON_GPUS)


@pytest.mark.slow
def test_engines_and_ranks_with_fractions_are_given_the_same_card_in_pairs(reserve):
    placement = reserve(*SHARED, "resources.learner.ranks=2", "resources.rollout.engines=2")
    options = [
        placement.rollout(0),
        placement.rollout(1),
        placement.learner(0),
        placement.learner(1),
    ]
    *engines, rank_0, rank_1 = places(started(*options))
    assert engines == [rank_0, rank_1]
    assert [len(gpus) for _, gpus in engines] == [1, 1]
    assert engines[0] != engines[1]


@pytest.mark.slow
def test_a_card_that_is_counted_and_cannot_be_used_is_named_before_anything_starts(
    reserve, tiny_policy
):
    placement = reserve(*ON_GPUS)
    with pytest.raises(ResourceError, match="Ray counts a GPU on this node, and torch cannot"):
        check_fit(load(*ON_GPUS), str(tiny_policy), placement.learner(0))


@pytest.mark.slow
def test_a_node_is_waited_for_and_when_it_dies_its_groups_move_to_another(cluster, reserve):
    added = []

    def add_node(*_):
        name = f"late-{len(added)}"
        added.append(cluster.add_node(num_cpus=3, resources={"late": 1}, node_name=name))

    placement = reserve(
        "resources.learner={ranks: 2, custom: {late: 0.1}}",
        "resources.rollout.custom={late: 0.1}",
        tell=lambda message: added or add_node(),
    )
    everything = placement.learner(0), placement.learner(1), placement.rollout(0)
    assert [node for node, _ in places(started(*everything))] == ["late-0"] * 3
    cluster.remove_node(added[0], allow_graceful=False)
    while "late-0" in names().values():
        time.sleep(0.1)
    again = started(*everything)
    add_node()
    assert [node for node, _ in places(again)] == ["late-1"] * 3
