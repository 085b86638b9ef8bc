"""Joining a Ray cluster, or starting one on this machine; and whether it has what a run asks for."""

import logging
import os

import ray

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


def connect(config: Config) -> None:
    """Join the cluster that RAY_ADDRESS names (as within `ray job submit`), or start Ray here.

    A Ray started here is told that it has as many CPUs as the run asks for: on a small machine the
    actors share the cores, which is slower but works.

    Raises:
        ResourceError: the cluster lacks the GPUs or CPUs that the configuration asks for.
    """
    gpus, cpus = _gpus(config), _cpus(config)
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        here = max(os.cpu_count() or 1, int(cpus + 0.999))
        ray.init(
            address="local",
            num_cpus=here,
            include_dashboard=False,
            _system_config=HEALTH_CHECKS,
            **quiet,
        )
    has = ray.cluster_resources()
    if has.get("GPU", 0) < gpus:
        raise ResourceError(
            f"the run asks for {gpus} GPUs ({_sum(config, 'gpus')}), and Ray sees {has.get('GPU', 0):.0f}; "
            "set resources.rollout.gpus_per_engine=0 resources.learner.gpus_per_rank=0 to run on the CPU"
        )
    if has.get("CPU", 0) < cpus:
        raise ResourceError(
            f"the run asks for {cpus:g} CPUs ({_sum(config, 'cpus')}), and the cluster has {has.get('CPU', 0):g}; "
            "lower resources.rollout.cpus, resources.learner.cpus, or the number of actors"
        )


def _gpus(config: Config) -> int:
    rollout, learner = config.resources.rollout, config.resources.learner
    return rollout.engines * rollout.gpus_per_engine + learner.ranks * learner.gpus_per_rank


def _cpus(config: Config) -> float:
    rollout, learner = config.resources.rollout, config.resources.learner
    return rollout.engines * rollout.cpus + learner.ranks * learner.cpus


def _sum(config: Config, what: str) -> str:
    rollout, learner = config.resources.rollout, config.resources.learner
    engine = rollout.gpus_per_engine if what == "gpus" else rollout.cpus
    rank = learner.gpus_per_rank if what == "gpus" else learner.cpus
    return f"{rollout.engines} engines x {engine:g} + {learner.ranks} learner ranks x {rank:g}"
