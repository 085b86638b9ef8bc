"""`cluster/ray-cluster.yaml`, checked by the functions of Ray that `ray up` reads it with."""

import shlex
from typing import Any

import jsonschema
import pytest
import yaml
from launching import (
    HEALTH_ENVIRONMENT,
    LOOPBACK,
    ROOT,
    assert_every_actor_has_its_place,
    run_in_guide,
    start_options,
)
from ray.autoscaler._private.util import prepare_config, validate_config

LAUNCHER = ROOT / "cluster" / "ray-cluster.yaml"


def launcher() -> dict[str, Any]:
    return yaml.safe_load(LAUNCHER.read_text())


def test_ray_up_accepts_the_file():
    validate_config(prepare_config(launcher()))


def test_ray_up_would_refuse_a_key_it_does_not_know():
    with pytest.raises(jsonschema.ValidationError, match="max_wokers"):
        validate_config(prepare_config({**launcher(), "max_wokers": 3}))


def test_ray_up_starts_a_head_that_takes_no_tasks_and_shows_its_dashboard_to_itself():
    config = launcher()
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0}
    head = next(c for c in config["head_start_ray_commands"] if c.startswith("ray start"))
    options = start_options(shlex.split(head)[2:])
    assert options["head"]
    assert options["dashboard_host"] == LOOPBACK


def test_ray_up_starts_workers_with_options_that_ray_knows():
    worker = next(c for c in launcher()["worker_start_ray_commands"] if c.startswith("ray start"))
    assert start_options(shlex.split(worker)[2:])["address"] == "$RAY_HEAD_IP:6379"


def test_every_machine_of_ray_up_asks_for_the_token_and_has_it():
    config = launcher()
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    environment = dict(
        option.removeprefix("--env ").split("=")
        for option in config["docker"]["run_options"]
        if option.startswith("--env ")
    )
    assert environment == {"RAY_AUTH_MODE": "token", **HEALTH_ENVIRONMENT}


def test_the_run_in_the_guide_fits_the_machines_of_ray_up():
    config = launcher()
    types = config["available_node_types"].values()
    nodes = [kind["resources"] for kind in types for _ in range(kind.get("min_workers", 0))]
    assert len(nodes) <= config["max_workers"]
    assert_every_actor_has_its_place(run_in_guide("Machines in a cloud: `ray up`"), nodes)


def test_checkpoints_outlive_the_machines_of_ray_up():
    storage = run_in_guide("Machines in a cloud: `ray up`").checkpoint.storage
    assert storage is not None
    assert storage.startswith("s3://")
