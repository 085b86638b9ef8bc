"""Joining a Ray cluster, or starting one on this machine."""

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from cluster.placement import plan
from dps_ray.config import Config
from dps_ray.errors import ResourceError

# Of a Ray that is started here: a node that is frozen or cut off is noticed within ten seconds. Ray's own
# setting, a check every 3 s, each given 10 s, 5 in a row, notices it after a minute. For a Ray that others
# start, set RAY_health_check_period_ms and so on in the environment of `ray start --head`.
HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}

# What Ray's processes are given to start, where Ray's own 10 to 60 s are too short on a busy machine. Ray reads these
# from the environment, in the driver and in every process that it starts.
START_TIMES = {
    "RAY_gcs_server_port_wait_time_s": "300",  # until the head's server listens
    "RAY_raylet_start_wait_time_s": "60",  # until the node is registered with it; see `_STARTS`
    "RAY_agent_register_timeout_ms": "300000",  # until the agents have told their ports to the node
    "RAY_worker_register_timeout_seconds": "300",  # until the process of an actor has
    "RAY_raylet_client_num_connect_attempts": "300",  # a second each, to the node's socket
}

# Times that Ray is started here at most. A node gives its agents 15 s, which no variable changes, and ends if they are
# slower.
_STARTS = 3

JOIN_SECONDS = 30.0  # in which a cluster has to answer


@contextmanager
def connect(config: Config, training: bool = True) -> Iterator[bool]:
    """Connect this process to Ray for a block: to the Ray it is connected to already, else to the cluster that
    RAY_ADDRESS names (as within `ray job submit`), else to one that is started here.

    Yields whether the process was connected before. Such a connection stays open after the block, so the block has to
    give back what it reserves. Any other connection is closed, which ends this job and its actors.

    A Ray started here is told that it has as many CPUs as the run asks for: on a small machine the
    actors share the cores, which is slower but works. A cluster may still get the nodes that it lacks;
    `Placement.reserve` waits for them.

    Args:
        training: without, no learner is asked for.

    Raises:
        ResourceError: the cluster does not answer, or has another version of Ray or Python; or Ray did not start
            here; or this machine lacks the GPUs or custom resources that the configuration asks for.
    """
    if ray.is_initialized():
        yield True
        return
    try:
        if joins():
            _join(os.environ["RAY_ADDRESS"])
        else:
            asked = plan(config, training).totals
            start(max(os.cpu_count() or 1, math.ceil(asked.get("CPU", 0.0))))
            _check_resources(config, training, asked)
        yield False
    finally:
        ray.shutdown()


def joins() -> bool:
    """Whether RAY_ADDRESS names a cluster to join."""
    return os.environ.get("RAY_ADDRESS", "local") not in ("", "local")


def start(cpus: int, **options: Any) -> None:
    """Start Ray on this machine, and connect to it.

    Args:
        cpus: as many it is told to have.
        options: more of `ray.init`.

    Raises:
        ResourceError: it did not start, and nothing is left of it; or this process is connected to a Ray already, which
            stays as it is.
    """
    if ray.is_initialized():
        raise ResourceError(
            "this process is connected to Ray already: call ray.shutdown() before another Ray is started here"
        )
    allow_slow_starts()
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    for left in reversed(range(_STARTS)):
        try:
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                _system_config=HEALTH_CHECKS,
                **(quiet | options),
            )
            return
        except Exception as error:  # Ray has no type of its own for it
            ray.shutdown()
            if left == 0:
                raise ResourceError(
                    f"Ray did not start on this machine: {error}; see whether it is short of CPU, memory or "
                    "room in /tmp"
                ) from error


def allow_slow_starts() -> None:
    """Give Ray's processes that start from now on the time in `START_TIMES`. Variables that are set already stay."""
    for name, value in START_TIMES.items():
        os.environ.setdefault(name, value)
    # This process read them when it imported Ray; this call reads them again.
    ray._raylet.Config.initialize("")


def _join(address: str) -> None:
    """
    Raises:
        ResourceError: there is no such cluster, it does not answer, or it refuses this process.
    """
    found = _address_of(address)
    _check_answers(address, found)
    try:
        ray.init(address=found, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        raise ResourceError(
            f"RAY_ADDRESS={address}: this process cannot join the cluster: {str(error).strip()}; it has to have "
            "the versions of Ray and Python that the cluster has, and to run on one of its nodes"
        ) from error


def _address_of(address: str) -> str:
    """host:port of the cluster's head.

    Raises:
        ResourceError: `auto` finds none, or it is the address of something else.
    """
    scheme, separator, _ = address.partition("://")
    if separator:
        raise ResourceError(
            f"RAY_ADDRESS={address}: a run is a process of the cluster and does not go through {scheme}://; submit "
            "it with `ray job submit`, or start it on a node of the cluster with RAY_ADDRESS=HOST:6379"
        )
    try:
        return str(ray._private.services.canonicalize_bootstrap_address(address))
    except (ConnectionError, ValueError, OSError) as error:
        raise ResourceError(
            f"RAY_ADDRESS={address}: {error}; write HOST:PORT of the cluster's head, such as 10.0.0.1:6379, or "
            "unset it to start Ray on this machine"
        ) from None


def _check_answers(address: str, found: str) -> None:
    """`ray.init` tries for minutes, and says nothing meanwhile.

    Raises:
        ResourceError: the head did not answer in time.
    """
    import grpc
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated.gcs_service_pb2 import CheckAliveRequest
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

    with init_grpc_channel(found) as channel:
        try:
            head = NodeInfoGcsServiceStub(channel)
            head.CheckAlive(CheckAliveRequest(), timeout=JOIN_SECONDS, wait_for_ready=True)
        except grpc.RpcError as error:
            silent = grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE
            if error.code() not in silent:
                return  # an answer, if not the one that was asked for; joining says what is wrong
            raise ResourceError(
                f"RAY_ADDRESS={address}: no Ray cluster answered at {found} within {JOIN_SECONDS:g} s; start it, "
                "write the address of its head, such as 10.0.0.1:6379, or unset RAY_ADDRESS to start Ray on this "
                "machine"
            ) from None


def _check_resources(config: Config, training: bool, asked: dict[str, float]) -> None:
    """
    Raises:
        ResourceError: Ray on this machine lacks what is asked for.
    """
    has = ray.cluster_resources()
    if has.get("GPU", 0.0) < asked.get("GPU", 0.0):
        raise ResourceError(
            f"the run asks for {asked['GPU']:g} GPUs ({_sum(config, training)}), and Ray sees "
            f"{has.get('GPU', 0.0):g}; set resources.rollout.gpus_per_engine=0"
            f"{' resources.learner.gpus_per_rank=0' if training else ''} to run on the CPU, "
            "or RAY_ADDRESS to join a cluster"
        )
    for name, amount in asked.items():
        if has.get(name, 0.0) < amount:
            raise ResourceError(
                f"the run asks for {amount:g} of the custom resource {name}, and this machine has "
                f"{has.get(name, 0.0):g}; leave it out of resources.*.custom, or set RAY_ADDRESS to join a "
                "cluster that has it"
            )


def _sum(config: Config, training: bool) -> str:
    rollout, learner = config.resources.rollout, config.resources.learner
    engines = f"{rollout.engines} engines x {rollout.gpus_per_engine:g}"
    return engines + (
        f" + {learner.ranks} learner ranks x {learner.gpus_per_rank:g}" if training else ""
    )
