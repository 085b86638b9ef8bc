"""Placement of actors: what each pool requests from Ray, the placement groups that reserve it, and each actor's bundle.

    plan(config) ──> Plan ──> Placement.reserve ──> placement.learner(0), .rollout(0), ...: options of actors

    learner    one group with one bundle per rank, packed on as few nodes as possible
    rollout    one group per engine, with all of the engine's GPUs on one node
    servers    no group for the actors in front of them
    both       one group with one bundle per GPU, if an engine and a rank share each GPU by fractions
    beliefs, verifiers    no group: they reserve no CPU and are spread over the nodes

If the node of a group dies, Ray moves the group to another node with enough room, and the restarted actor runs there.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from dps_ray.config import Config
from dps_ray.errors import ResourceError

# Seconds that Ray may take to place groups before the user is told, and seconds between later checks.
_PATIENCE, _LOOK_UP = 2.0, 0.5


class Bundle(NamedTuple):
    """Resources reserved on one node, by Ray's names: {"GPU": 1.0, "CPU": 4.0, "gpu_node": 0.01}."""

    holds: str  # the actor in it, such as "learner rank 0"
    asks: dict[str, float]  # without resources of amount zero


class Group(NamedTuple):
    """Bundles that Ray places either all together or not at all."""

    strategy: str
    bundles: tuple[Bundle, ...]


class Seat(NamedTuple):
    """The group of an actor, and its bundle in that group."""

    group: int
    bundle: int


@dataclass(frozen=True)
class Pool:
    """Actors of one kind, all with the same request."""

    noun: str
    actors: tuple[Bundle, ...]  # the request of each actor
    seats: tuple[
        Seat, ...
    ] = ()  # one for each actor; empty if the actors are spread over the nodes

    def __str__(self) -> str:
        asks = self.actors[0].asks
        return _count(len(self.actors), self.noun) + (f" x {_amounts(asks)}" if asks else "")


@dataclass(frozen=True)
class Plan:
    """The resources that a configuration requests from a cluster."""

    learner: Pool
    rollout: Pool
    beliefs: Pool
    verifiers: Pool
    groups: tuple[Group, ...]

    @property
    def totals(self) -> dict[str, float]:
        """The resources of all actors together."""
        pools = (self.learner, self.rollout, self.beliefs, self.verifiers)
        return _sum(actor.asks for pool in pools for actor in pool.actors)


def plan(config: Config, training: bool = True) -> Plan:
    """The bundles that each pool requests, in the order in which they are placed.

    Args:
        training: False leaves out the learner and the belief shards.
    """
    pools = config.resources
    learner, rollout = pools.learner, pools.rollout
    rank = _asks(learner.gpus_per_rank, learner.cpus, learner.custom)
    servers = config.rollout.servers
    # The actor in front of a server only forwards calls.
    engine = {} if servers else _asks(rollout.gpus_per_engine, rollout.cpus, rollout.custom)
    ranks = _bundles("learner rank", learner.ranks if training else 0, rank)
    engines = _bundles("rollout engine", len(servers) or rollout.engines, engine)
    groups: tuple[Group, ...]
    of_ranks: tuple[Seat, ...]
    of_engines: tuple[Seat, ...]
    if 0 < rollout.gpus_per_engine < 1:
        # Two fractions are certain to be on the same GPU only if they are in one bundle.
        pair = _sum([engine, rank])
        names = (f"rollout engine {i} with learner rank {i}" for i in range(rollout.engines))
        groups = (Group("PACK", tuple(Bundle(name, pair) for name in names)),)
        of_ranks = of_engines = tuple(Seat(0, i) for i in range(rollout.engines))
    else:
        of_learner = (Group("PACK", ranks),) if ranks else ()
        groups = (*of_learner, *(Group("STRICT_PACK", (one,)) for one in engines))
        of_ranks = tuple(Seat(0, i) for i in range(len(ranks)))
        of_engines = tuple(Seat(len(of_learner) + i, 0) for i in range(len(engines)))
    count = pools.beliefs.shards if training else 0
    shards = _bundles("belief shard", count, _asks(0, 0, pools.beliefs.custom))
    workers = _bundles("verifier", pools.verifiers.workers, _asks(0, 0, pools.verifiers.custom))
    return Plan(
        learner=Pool("rank", ranks, of_ranks),
        rollout=Pool("engine", engines, of_engines),
        beliefs=Pool("belief shard", shards),
        verifiers=Pool("verifier", workers),
        groups=groups,
    )


def first_without_room(
    bundles: Iterable[Bundle], free: Iterable[Mapping[str, float]]
) -> Bundle | None:
    """The first bundle that fits on no node once the bundles before it are placed; None if all fit.

    Args:
        bundles: bundles with equal requests.
        free: the free resources of each node.
    """
    nodes = [dict(node) for node in free]
    for bundle in bundles:
        for node in nodes:
            if all(node.get(name, 0.0) >= amount - 1e-6 for name, amount in bundle.asks.items()):
                for name, amount in bundle.asks.items():
                    node[name] -= amount
                break
        else:
            return bundle
    return None


class Placement:
    """The options with which each actor of a run is created and recreated, so that it runs in its place.

    Without groups, Ray places each actor wherever there is room.
    """

    def __init__(self, plan: Plan, groups: Sequence[PlacementGroup | None] | None = None) -> None:
        self.plan = plan
        self._groups = groups or [None] * len(plan.groups)

    @classmethod
    def reserve(
        cls,
        config: Config,
        tell: Callable[[str], None] = lambda message: None,
        training: bool = True,
    ) -> "Placement":
        """Reserves the resources of all actors. Waits up to `resources.wait` seconds, because nodes may still be
        starting.

        Args:
            tell: called with a sentence that says what is missing.
            training: as for `plan`.

        Raises:
            ResourceError: there was no room for a bundle; nothing stays reserved.
        """
        asked = plan(config, training)
        placement = cls(asked, [_group(group) for group in asked.groups])
        try:
            placement._wait(config.resources.wait, tell)
        except BaseException:
            placement.release()
            raise
        return placement

    def learner(self, rank: int) -> dict[str, Any]:
        """The options of a learner rank, for `Actor.options(**...)`."""
        return self._options(self.plan.learner, rank)

    def rollout(self, index: int) -> dict[str, Any]:
        """The options of a rollout engine."""
        return self._options(self.plan.rollout, index)

    def beliefs(self, index: int) -> dict[str, Any]:
        """The options of a belief shard."""
        return self._options(self.plan.beliefs, index)

    def verifiers(self, index: int) -> dict[str, Any]:
        """The options of a verifier."""
        return self._options(self.plan.verifiers, index)

    def describe(self) -> list[str]:
        """The placement of each pool and the resources of the cluster, as lines of text for the user."""
        nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        has = _sum(node["Resources"] for node in nodes.values())
        asked = dict.fromkeys(("GPU", "CPU", *self.plan.totals))
        seated = {"learner": self.plan.learner, "rollout": self.plan.rollout}
        spread = (self.plan.verifiers, self.plan.beliefs)
        rows = [
            *(
                (name, str(pool), self._nodes_of(pool, nodes))
                for name, pool in seated.items()
                if pool.actors
            ),
            ("spread", ", ".join(str(pool) for pool in spread if pool.actors), ""),
            ("cluster", _count(len(nodes), "node"), _amounts({n: has.get(n, 0.0) for n in asked})),
        ]
        width = max(len(what) for _, what, _ in rows)
        return [f"{name:<9}{what:<{width}}   {where}".rstrip() for name, what, where in rows]

    def release(self) -> None:
        """Releases the reserved resources. This ends the actors that use them."""
        for group in self._groups:
            if group is not None:
                remove_placement_group(group)

    def _options(self, pool: Pool, index: int) -> dict[str, Any]:
        custom = dict(pool.actors[index].asks)
        options: dict[str, Any] = {
            "num_cpus": custom.pop("CPU", 0),
            "num_gpus": custom.pop("GPU", 0),
            "resources": custom,
            "scheduling_strategy": "SPREAD",
        }
        if pool.seats and (group := self._groups[pool.seats[index].group]) is not None:
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                group, placement_group_bundle_index=pool.seats[index].bundle
            )
        return options

    def _wait(self, seconds: float, tell: Callable[[str], None]) -> None:
        """Waits until there is room for all actors. Raises ResourceError after `seconds`."""
        began = time.monotonic()
        ready = [group.ready() for group in self._groups if group is not None]
        if ready:
            ray.wait(ready, num_returns=len(ready), timeout=min(_PATIENCE, seconds))
        told = ""
        while missing := self._first_missing():
            left = began + seconds - time.monotonic()
            needs = f"{missing.holds}, which needs {_amounts(missing.asks)}"
            if left <= 0:
                raise ResourceError(
                    f"after resources.wait={seconds:g} s no node has room for {needs}; "
                    f"left free: {self._free()}. Request less in `resources`, or add a node with this room"
                )
            if missing.holds != told:
                tell(f"waiting up to {left:.0f} s for a node with room for {needs}")
                told = missing.holds
            time.sleep(min(_LOOK_UP, left))

    def _first_missing(self) -> Bundle | None:
        """The first bundle without a place; None if all have one."""
        free = [resources for _, resources in _free_by_node()]
        for group, made in zip(self.plan.groups, self._groups, strict=True):
            if made is not None and placement_group_table(made)["state"] != "CREATED":
                return first_without_room(group.bundles, free) or group.bundles[0]
        for pool in (self.plan.beliefs, self.plan.verifiers):
            if bundle := first_without_room(pool.actors, free):
                return bundle
        return None

    def _free(self) -> str:
        """The free resources of each node, limited to the kinds that the plan requests."""
        parts = []
        for name, free in _free_by_node():
            left = {key: free[key] for key in self.plan.totals if free.get(key, 0.0) > 0}
            parts.append(f"{name} {_amounts(left) or 'nothing'}")
        return "; ".join(parts)

    def _nodes_of(self, pool: Pool, nodes: Mapping[str, Any]) -> str:
        """The names of the nodes that a pool is on; empty if the cluster has only one node."""
        if len(nodes) == 1:
            return ""
        tables = [group and placement_group_table(group) for group in self._groups]
        ids = [
            table["bundles_to_node_id"][seat.bundle]
            for seat in pool.seats
            if (table := tables[seat.group]) is not None
        ]
        return ", ".join(nodes[i]["NodeName"] for i in dict.fromkeys(ids) if i in nodes)


def _group(group: Group) -> PlacementGroup | None:
    """Creates Ray's placement group; None for actors that request nothing, because Ray has no empty bundles."""
    if not group.bundles[0].asks:
        return None
    return placement_group([bundle.asks for bundle in group.bundles], strategy=group.strategy)


def _free_by_node() -> list[tuple[str, dict[str, float]]]:
    """The name and free resources of every node, sorted by name."""
    free = ray._private.state.available_resources_per_node()
    alive = sorted((node["NodeName"], node["NodeID"]) for node in ray.nodes() if node["Alive"])
    return [(name, free.get(node, {})) for name, node in alive]


def _asks(gpus: float, cpus: float, custom: Mapping[str, float]) -> dict[str, float]:
    asks = {"GPU": gpus, "CPU": cpus, **custom}
    return {name: amount for name, amount in asks.items() if amount > 0}


def _bundles(holds: str, count: int, asks: dict[str, float]) -> tuple[Bundle, ...]:
    return tuple(Bundle(f"{holds} {index}", asks) for index in range(count))


def _sum(asks: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for name, amount in (item for each in asks for item in each.items()):
        total[name] = round(total.get(name, 0.0) + amount, 4)  # Ray counts in steps of 0.0001
    return total


def _amounts(asks: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in asks.items())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
