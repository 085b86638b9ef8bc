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

# Settings of a Ray that this program starts: it detects a frozen or disconnected node within ten seconds. Ray's
# defaults, 5 failed checks in a row, one every 3 s with a timeout of 10 s, detect it after a minute. For a Ray that
# is started elsewhere, set RAY_health_check_period_ms and so on in the environment of `ray start --head`.
HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}

# Timeouts for the start of Ray's processes; Ray's defaults of 10 to 60 s are too short on a busy machine. Ray reads
# these variables from the environment, in the driver and in every process that it starts.
START_TIMES = {
    "RAY_gcs_server_port_wait_time_s": "300",  # until the head's server listens
    "RAY_raylet_start_wait_time_s": "60",  # until the node is registered with the server; see `_STARTS`
    "RAY_agent_register_timeout_ms": "300000",  # until the agents have reported their ports to the node
    "RAY_worker_register_timeout_seconds": "300",  # until an actor's process has registered with the node
    "RAY_raylet_client_num_connect_attempts": "300",  # attempts, one per second, to connect to the node's socket
}

# How often Ray is started at most. A node waits 15 s for its agents, which no variable changes, and exits if they take
# longer.
_STARTS = 3

JOIN_SECONDS = 30.0  # within which a cluster must answer


@contextmanager
def connect(config: Config, training: bool = True) -> Iterator[bool]:
    """Connects this process to Ray for the duration of a block.

    If the process is already connected to Ray, that connection is used. Otherwise it joins the cluster that RAY_ADDRESS
    names, as within `ray job submit`. Without RAY_ADDRESS it starts Ray on this machine.

    Yields whether the process was connected before. Such a connection stays open after the block, so the block has to
    release what it reserves. Any other connection is closed, which ends this job and its actors.

    A Ray started here is given at least as many CPUs as the run requests, so that on a small machine the actors share
    the cores, which is slower but works. In a cluster, missing nodes may still be added; `Placement.reserve` waits for
    them.

    Args:
        training: False requests no learner and no belief shards.

    Raises:
        ResourceError: the cluster does not answer, or has another version of Ray or Python; or Ray did not start
            here; or this machine lacks the GPUs or custom resources that the configuration requests.
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
    """Starts Ray on this machine and connects to it.

    Args:
        cpus: the number of CPUs that Ray assumes.
        options: further arguments of `ray.init`.

    Raises:
        ResourceError: Ray did not start, and none of its processes is left; or this process is already connected to
            Ray, and that connection stays as it is.
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
        except Exception as error:  # Ray has no specific exception type for this
            ray.shutdown()
            if left == 0:
                raise ResourceError(
                    f"Ray did not start on this machine: {error}; check that it has enough CPU, memory and "
                    "space in /tmp"
                ) from error


def allow_slow_starts() -> None:
    """Applies the timeouts in `START_TIMES` to Ray processes that start from now on. Variables that are already set
    keep their values."""
    for name, value in START_TIMES.items():
        os.environ.setdefault(name, value)
    # This process read the variables when it imported Ray; this call makes it read them again.
    ray._raylet.Config.initialize("")


def _join(address: str) -> None:
    """Joins the cluster at this address.

    Raises:
        ResourceError: there is no such cluster, it does not answer, or it refuses this process.
    """
    found = _address_of(address)
    _check_answers(address, found)
    try:
        ray.init(address=found, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        raise ResourceError(
            f"RAY_ADDRESS={address}: this process cannot join the cluster: {str(error).strip()}; it must use "
            "the cluster's versions of Ray and Python, and run on one of its nodes"
        ) from error


def _address_of(address: str) -> str:
    """The cluster's head as host:port.

    Raises:
        ResourceError: `auto` finds no cluster, or the address is not that of a cluster's head.
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
    """Checks that the head answers, because `ray.init` would try for minutes without a message.

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
                return  # the head answered, though with an error; joining reports what is wrong
            raise ResourceError(
                f"RAY_ADDRESS={address}: no Ray cluster answered at {found} within {JOIN_SECONDS:g} s; start it, "
                "write the address of its head, such as 10.0.0.1:6379, or unset RAY_ADDRESS to start Ray on this "
                "machine"
            ) from None


def _check_resources(config: Config, training: bool, asked: dict[str, float]) -> None:
    """Checks that Ray on this machine has the requested resources.

    Raises:
        ResourceError: it lacks some of them.
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
