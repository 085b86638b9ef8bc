"""Joining a Ray cluster, or starting one on this machine."""

import logging
import math
import os
from typing import Any

import ray

from cluster.placement import plan
from dps_ray.config import Config
from dps_ray.errors import ResourceError

_STARTS = 3  # tries to start Ray here

# Of a Ray that is started here: a node that is frozen or cut off is noticed within ten seconds. Ray's own
# setting, a check every 3 s, each given 10 s, 5 in a row, notices it after a minute. For a Ray that others
# start, set RAY_health_check_period_ms and so on in the environment of `ray start --head`.
HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}


def connect(config: Config, training: bool = True) -> None:
    """Join the cluster that RAY_ADDRESS names (as within `ray job submit`), or start Ray here.

    A Ray started here is told that it has as many CPUs as the run asks for: on a small machine the
    actors share the cores, which is slower but works. A cluster may still get the nodes that it lacks;
    `Placement.reserve` waits for them.

    Args:
        training: without, no learner is asked for.

    Raises:
        ResourceError: this machine lacks the GPUs or custom resources that the configuration asks for.
    """
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
        return
    asked = plan(config, training).totals
    _start(max(os.cpu_count() or 1, math.ceil(asked.get("CPU", 0.0))), quiet)
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


def _start(cpus: int, quiet: dict[str, Any]) -> None:
    """Start Ray on this machine. It gives its own processes 30 s, which a busy machine may not keep: so again.

    Raises:
        ResourceError: it did not start.
    """
    for left in reversed(range(_STARTS)):
        try:
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                _system_config=HEALTH_CHECKS,
                **quiet,
            )
            return
        except Exception as error:  # Ray has no type of its own for it
            ray.shutdown()
            if left == 0:
                raise ResourceError(
                    f"Ray did not start on this machine: {error}; see whether it is short of CPU, memory or "
                    "room in /tmp"
                ) from error


def _sum(config: Config, training: bool) -> str:
    rollout, learner = config.resources.rollout, config.resources.learner
    engines = f"{rollout.engines} engines x {rollout.gpus_per_engine:g}"
    return engines + (
        f" + {learner.ranks} learner ranks x {learner.gpus_per_rank:g}" if training else ""
    )
